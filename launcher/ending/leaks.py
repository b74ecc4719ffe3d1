"""What this machine knows of leaked pods without asking anybody: one small file in the workspace.

For commands that open no store. Best effort: the records in the bucket are the truth, except of pods that
belong to no record any more.
"""

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from launcher.errors import Leaked, PodError
from launcher.machine.files import write_atomically
from launcher.model import Phase, RunRecord
from launcher.ports import Pods
from launcher.report.text import leaked_lines


@dataclass(frozen=True)
class LeakNote:
    """A pod that may still run."""

    run_id: str
    pod_name: str
    pod_id: str
    """Empty where its provider told none: then every pod of the name is meant."""
    provider: str
    place: str
    """As the port says."""
    on_record: bool
    """Whether the run's record tells of it: if so, it tells as well when it is gone."""
    line: str
    """For a person."""


class LeakNotes:
    """The leaked pods that commands of this workspace came across."""

    def __init__(self, workspace: Path) -> None:
        self.path = workspace / "leaked.json"
        self._lock = threading.Lock()

    def read(self) -> Sequence[LeakNote]:
        """Return what is noted; nothing where nothing can be read."""
        try:
            return [_note(found) for found in json.loads(self.path.read_bytes())]
        except (OSError, ValueError, TypeError):
            return []

    def keep(self, record: RunRecord) -> None:
        """Note the pods of a run that is leaked; forget what its record told of once all are gone.

        What belongs to no record stays: none can tell that it is gone.
        """
        leaked = record.phase is Phase.LEAKED
        if leaked or record.all_gone:
            self._change(
                lambda note: note.run_id != record.run_id or not note.on_record,
                _of_record(record) if leaked else (),
            )

    def note(self, run_id: str, leak: Leaked, pods: Pods) -> None:
        """Note the pods of a leak that could not be recorded; `pods` is their provider."""
        place = ""
        with suppress(PodError):
            place = pods.place
        new = [
            LeakNote(run_id, name, pod_id, pods.provider, place, leak.on_record, str(leak))
            for name, pod_ids in leak.pods.items()
            for pod_id in pod_ids or ("",)
        ]
        noted = {(note.pod_name, note.pod_id) for note in new}
        self._change(lambda note: (note.pod_name, note.pod_id) not in noted, new)

    def forget(self, notes: Iterable[LeakNote]) -> None:
        """Forget pods that are proven gone."""
        gone = set(notes)
        self._change(lambda note: note not in gone, ())

    def _change(self, stays: Callable[[LeakNote], bool], new: Sequence[LeakNote]) -> None:
        with self._lock:
            known = self.read()
            notes = [*(note for note in known if stays(note)), *new]
            if notes == known:
                return
            with suppress(OSError):
                if notes:
                    text = json.dumps([asdict(note) for note in notes], indent=1)
                    write_atomically(self.path, text.encode(), private=True)
                else:
                    self.path.unlink(missing_ok=True)


def _of_record(record: RunRecord) -> Sequence[LeakNote]:
    spec = record.spec
    open_ones = [attempt for attempt in record.attempts if attempt.gone_at is None]
    return [
        LeakNote(record.run_id, attempt.pod_name, pod_id, spec.provider, spec.place, True, line)
        for attempt, line in zip(open_ones, leaked_lines(record), strict=True)
        for pod_id in attempt.pod_ids or ("",)
    ]


def _note(found: object) -> LeakNote:
    """Read one note. Raises TypeError or ValueError on anything else."""
    if not isinstance(found, dict):
        raise TypeError("no note")
    note = LeakNote(**found)
    if not all(type(value) is field.type for field, value in zip(fields(note), astuple(note), strict=True)):
        raise TypeError("no note")
    return note
