"""`retrain cancel`: end a run, keep what was saved, prove its pod gone."""

from typing import TYPE_CHECKING

import click

from launcher.cli.options import SettingsFlags, settings_options

if TYPE_CHECKING:
    from launcher.cli.wiring import Workplace
    from launcher.model import RunRecord


@click.command("cancel")
@click.argument("run_id", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@settings_options
def command(*, run_id: str | None, as_json: bool, flags: SettingsFlags) -> int:
    """End RUN_ID and its pod: by default the open run. Checkpoints that are complete still come home.

    Where another launcher works on the run, that one ends it, and this command waits for the proof. Exit code
    9 when the run is over.
    """
    from launcher.cli.follow import conclude, follow, print_result
    from launcher.cli.narrator import Narrator
    from launcher.cli.wiring import no_run, nothing_yet, pick_run, workplace

    narrator = Narrator()
    settings = flags.load()
    if nothing_yet(settings):
        raise no_run(run_id)
    with workplace(settings, narrator) as place:
        chosen = pick_run(place, run_id)
        record = place.journal.request_cancel(chosen)
        if record.phase.closed:
            narrator.say(f"run {chosen} is over already: {record.phase.value}")
        else:
            narrator.say(f"the wish to cancel run {chosen} is on record")
            record = _left_to_its_launcher(place, record)
        if record.phase.closed:
            print_result(place, record, as_json=as_json)
            return conclude(place, record)
        return follow(place, chosen, as_json=as_json)


def _left_to_its_launcher(place: "Workplace", record: "RunRecord") -> "RunRecord":
    """Wait while another launcher holds the run: until it closed it, let go of it, or its lease ran out."""
    from launcher.journal import who

    told = False
    while not record.phase.closed and (lease := place.journal.lease_of_another(record)) is not None:
        if not told:
            place.narrator.say(
                f"{who(lease.holder)} works on it and ends it on its next pass; waiting until it did"
                " (Ctrl-C stops the waiting, not the cancelling)"
            )
            told = True
        place.world.clock.sleep(record.spec.clocks.poll_seconds)
        record = place.journal.read(record.run_id)
    return record
