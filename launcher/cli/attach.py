"""`retrain attach`: take over a run that goes on without a launcher."""

import click

from launcher.cli.options import SettingsFlags, settings_options


@click.command("attach")
@click.argument("run_id", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@settings_options
def command(*, run_id: str | None, as_json: bool, flags: SettingsFlags) -> int:
    """Follow RUN_ID to its end and bring its results home: by default the open run."""
    from launcher.cli.follow import follow
    from launcher.cli.narrator import Narrator
    from launcher.cli.wiring import no_run, nothing_yet, pick_run, workplace

    settings = flags.load()
    if nothing_yet(settings):
        raise no_run(run_id)
    with workplace(settings, Narrator()) as place:
        return follow(place, pick_run(place, run_id), as_json=as_json)
