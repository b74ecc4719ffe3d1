"""Leaked pods come first: every command shows them, and who can tries again, for a moment, to end them."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.ending.haste import Hurried
from launcher.ending.leaks import LeakNote, LeakNotes
from launcher.errors import RetrainError
from launcher.loop import LEAKED_PASSES, Loop
from launcher.model import Phase, RunRecord
from launcher.ports import Notifier
from launcher.report.text import leaked_lines

if TYPE_CHECKING:
    from launcher.cli.wiring import Workplace

RETRY_SECONDS = 20.0
"""How long a command tries to end what other runs left, all of them together, before it does its own work."""


def show_noted_leaks(notifier: Notifier, workspace: Path | None = None) -> None:
    """Show what this workspace knows of leaked pods: for commands that ask neither store nor provider.

    `workspace` None: the one that the settings name here, as far as they can be read.
    """
    if workspace is None:
        from launcher.settings import load_settings

        workspace = Path(".retrain")
        with suppress(RetrainError):
            workspace = load_settings().run.workspace
    notes = LeakNotes(workspace)
    _say_noted(notifier, notes, notes.read())


def retry_leaked(place: "Workplace") -> None:
    """Show every leaked run first, and try again to end its pods. Takes RETRY_SECONDS and a little more."""
    notes = place.leaks
    records = place.journal.records(place.narrator.say)
    leaked = [record for record in records if record.phase is Phase.LEAKED]
    for record in records:
        notes.keep(record)
    # Their records are in another store, could not be written when the pod leaked, or never knew of it.
    told = {record.run_id for record in leaked}
    others = [note for note in notes.read() if not (note.on_record and note.run_id in told)]
    _say_noted(place.narrator, notes, others)
    for record in leaked:
        for line in leaked_lines(record):
            place.narrator.say(f"{line} Trying again to end it.")
    if not leaked:
        return
    world = replace(place.world, pods=Hurried(place.world.pods, place.world.clock, seconds=RETRY_SECONDS))
    until = world.clock.monotonic() + RETRY_SECONDS
    for record in leaked:
        try:
            after = _retried(Loop(world, place.journal, pulls=False), record, until, place)
        except RetrainError as error:
            place.narrator.say(f"run {record.run_id} is still LEAKED: {error}")
            continue
        notes.keep(after)
        place.narrator.say(_outcome(after))


def _retried(loop: Loop, record: RunRecord, until: float, place: "Workplace") -> RunRecord:
    """Make passes while there is time: one asks for the end, a later one can confirm it."""
    clock = place.world.clock
    poll = record.spec.clocks.poll_seconds
    for number in range(LEAKED_PASSES):
        if number:
            clock.sleep(poll)
        record = loop.once(record.run_id)
        if record.phase is not Phase.LEAKED or clock.monotonic() + poll > until:
            break
    return record


def _outcome(record: RunRecord) -> str:
    if record.phase is Phase.LEAKED:
        return f"run {record.run_id} is still LEAKED: the end of its pod could not be confirmed now"
    if record.phase.closed:
        return f"run {record.run_id} is no longer leaked: its pods are confirmed gone"
    return (
        f"run {record.run_id} is no longer leaked: its pods are confirmed gone;"
        f" `retrain attach {record.run_id}` brings home what is left"
    )


def _say_noted(notifier: Notifier, notes: LeakNotes, shown: Iterable[LeakNote]) -> None:
    """Say each line once, and how it goes away: the record that would tell may be out of reach for ever."""
    for line, note in {note.line: note for note in shown}.items():
        again = "`retrain reconcile` tries again to end it; " if note.on_record else ""
        notifier.say(
            f"{line} (Noted in {notes.path}; {again}`retrain reap --yes --provider {note.provider}`, with its"
            " namespace and key, ends it at its deadline and removes the note once it is proven gone.)"
        )
