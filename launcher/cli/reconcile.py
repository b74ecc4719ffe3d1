"""`retrain reconcile`: one pass over every open run, for cron and CI."""

import json
import sys
from typing import Any

import click

from launcher.cli.options import SettingsFlags, settings_options


@click.command("reconcile")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of the runs that were looked after.")
@settings_options
def command(*, as_json: bool, flags: SettingsFlags) -> int:
    """Look after all open runs once: watch, bring home, end what must end, start what must be tried again.

    Exit code: the gravest of the runs that ended or leaked on this pass, 0 when none did.
    """
    from launcher.cli.narrator import Narrator
    from launcher.cli.wiring import nothing_yet, workplace
    from launcher.errors import Exit, Leaked, LeaseHeld, RetrainError
    from launcher.model import Phase, RunRecord
    from launcher.report.summary import exit_code, summary
    from launcher.report.text import leaked_lines, overview_text
    from launcher.rounds import go_round

    narrator = Narrator()
    codes: list[int] = []
    results: list[dict[str, Any]] = []
    settings = flags.load()
    if nothing_yet(settings):
        sys.stdout.write("[]\n" if as_json else overview_text([]))
        return 0
    with workplace(settings, narrator, tries_leaked=False) as place:
        now, leaks = place.world.store.now(), place.leaks

        def tell(record: RunRecord) -> dict[str, Any]:
            leaks.keep(record)
            codes.append(exit_code(record) or int(Exit.DONE))
            for line in leaked_lines(record) if record.phase is Phase.LEAKED else ():
                narrator.say(line)
            return summary(record, now)

        for looked in go_round(place.world, place.journal, tell):
            match looked.error:
                case None:
                    assert looked.told is not None
                    results.append(looked.told)
                case LeaseHeld():
                    narrator.say(str(looked.error))
                case RetrainError():
                    if isinstance(looked.error, Leaked):
                        leaks.note(looked.run_id, looked.error, place.world.pods)
                    narrator.say(f"run {looked.run_id}: {looked.error}")
                    codes.append(int(looked.error.exit_code))
                case error:
                    narrator.say(f"run {looked.run_id}: unexpected {type(error).__name__}, a bug in retrain")
                    codes.append(int(Exit.INFRASTRUCTURE))
    sys.stdout.write(json.dumps(results) + "\n" if as_json else overview_text(results))
    return Exit.gravest(codes)
