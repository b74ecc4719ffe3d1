"""`retrain status`: what runs there are and where they stand. Reads only."""

import json
import sys

import click

from launcher.cli.options import SettingsFlags, settings_options


@click.command("status")
@click.argument("run_id", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one object for a run, a list without one.")
@settings_options
def command(*, run_id: str | None, as_json: bool, flags: SettingsFlags) -> int:
    """Show RUN_ID, or all runs, the newest first."""
    from launcher.cli.follow import print_result
    from launcher.cli.narrator import Narrator
    from launcher.cli.wiring import no_run, nothing_yet, pick_run, workplace
    from launcher.report.summary import summary
    from launcher.report.text import overview_text

    settings = flags.load()
    if nothing_yet(settings):
        if run_id is not None:
            raise no_run(run_id)
        sys.stdout.write("[]\n" if as_json else overview_text([]))
        return 0
    with workplace(settings, Narrator()) as place:
        if run_id is not None:
            print_result(place, place.journal.read(pick_run(place, run_id)), as_json=as_json)
            return 0
        now = place.world.store.now()
        results = [summary(record, now) for record in reversed(place.journal.records(place.narrator.say))]
        sys.stdout.write(json.dumps(results) + "\n" if as_json else overview_text(results))
        return 0
