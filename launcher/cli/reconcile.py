"""`retrain reconcile`: one pass over every open run, for cron and CI."""

import json
import sys

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
    from launcher.loop import Loop
    from launcher.report.summary import exit_code, summary
    from launcher.report.text import overview_text

    narrator = Narrator()
    codes: list[int] = []
    results = []
    settings = flags.load()
    if nothing_yet(settings):
        sys.stdout.write("[]\n" if as_json else overview_text([]))
        return 0
    with workplace(settings, narrator) as place:
        for record in place.journal.records(narrator.say):
            if record.phase.closed:
                continue
            try:
                after = Loop(place.world, place.journal).once(record.run_id)
            except LeaseHeld as error:
                narrator.say(str(error))
                continue
            except RetrainError as error:
                if isinstance(error, Leaked):
                    place.leaks.note(record.run_id, [str(error)])
                narrator.say(f"run {record.run_id}: {error}")
                codes.append(int(error.exit_code))
                continue
            except Exception as error:  # noqa: BLE001 - one run must not keep the others from being looked after
                narrator.say(f"run {record.run_id}: unexpected {type(error).__name__}, a bug in retrain")
                codes.append(int(Exit.INFRASTRUCTURE))
                continue
            place.leaks.keep(after)
            codes.append(exit_code(after) or int(Exit.DONE))
            results.append(summary(after, place.world.store.now()))
    sys.stdout.write(json.dumps(results) + "\n" if as_json else overview_text(results))
    return Exit.gravest(codes)
