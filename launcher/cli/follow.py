"""Following a run to its end, for `run`, `attach` and `cancel`: passes, view, result, exit code."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from launcher.cli.signals import interrupted_code
from launcher.cli.view import showing
from launcher.cli.wiring import Workplace
from launcher.errors import Exit, Leaked
from launcher.loop import Loop
from launcher.model import Phase, RunRecord
from launcher.money.audit import audited
from launcher.report.summary import exit_code, summary
from launcher.report.text import leaked_lines, result_text


def follow(place: Workplace, run_id: str, *, as_json: bool) -> int:
    """Drive a run until it is closed or leaked, print its result on stdout and return the exit code.

    Ctrl-C, SIGTERM and a closed terminal detach: the run goes on under its deadline.
    """
    place.guard(place.journal.read(run_id))
    try:
        with noting_leaks(place, run_id), showing(place.narrator) as view:
            record = Loop(place.world, place.journal, on_pass=view.on_pass, mend=place.mend).drive(run_id)
    except KeyboardInterrupt as interrupt:
        place.narrator.say(
            f"detached: run {run_id} goes on under its deadline;"
            f" `retrain attach {run_id}` follows it, `retrain cancel {run_id}` ends it"
        )
        return interrupted_code(interrupt)
    print_result(place, record, as_json=as_json)
    return conclude(place, record)


@contextmanager
def noting_leaks(place: Workplace, run_id: str) -> Iterator[None]:
    """Keep a leak that no record could tell of, so that every later command shows it."""
    try:
        yield
    except Leaked as leak:
        place.leaks.note(run_id, leak, place.world.pods)
        raise


def has_pod(record: RunRecord) -> bool:
    """Whether a pod of the run works now."""
    return any(attempt.open and attempt.pod_ids for attempt in record.attempts)


def print_result(place: Workplace, record: RunRecord, *, as_json: bool) -> None:
    """Print a run's result on stdout: one JSON object, or text."""
    world = place.world
    record = audited(record, world.pods, world.store, place.journal, place.narrator.say)
    result = summary(record, world.store.now())
    sys.stdout.write(json.dumps(result) + "\n" if as_json else result_text(result))
    sys.stdout.flush()


def conclude(place: Workplace, record: RunRecord) -> int:
    """Return the exit code for a record that nothing more is done to, loudly where a pod is left."""
    place.leaks.keep(record)
    place.guard(record)
    if record.phase is Phase.LEAKED:
        for line in leaked_lines(record):
            place.narrator.say(f"{line} End it there; every later retrain command tries again, too.")
        return int(Exit.LEAKED)
    return exit_code(record) or int(Exit.DONE)
