"""`retrain cancel`: end a run, keep what was saved, prove its pod gone."""

import click

from launcher.cli.options import SettingsFlags, settings_options


@click.command("cancel")
@click.argument("run_id", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@settings_options
def command(*, run_id: str | None, as_json: bool, flags: SettingsFlags) -> int:
    """End RUN_ID and its pod: by default the open run. Checkpoints that are complete still come home.

    Exit code 9 when the run is over; 0 when another launcher holds the run and will end it.
    """
    from launcher.cli.follow import follow
    from launcher.cli.narrator import Narrator
    from launcher.cli.wiring import pick_run, workplace
    from launcher.errors import LeaseHeld

    narrator = Narrator()
    with workplace(flags.load(), narrator) as place:
        chosen = pick_run(place, run_id)
        record = place.journal.request_cancel(chosen)
        if record.phase.closed:
            narrator.say(f"run {chosen} is over already: {record.phase.value}")
        try:
            return follow(place, chosen, as_json=as_json)
        except LeaseHeld as error:
            narrator.say(f"{error}; it will end run {chosen} on its next pass")
            return 0
