"""What this machine knows of leaked pods without asking anybody: one small file in the workspace.

For commands that open no store. Best effort: the records in the bucket are the truth.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from launcher.files import write_atomically
from launcher.model import Phase, RunRecord
from launcher.report.text import leaked_lines


class LeakNotes:
    """The leaked runs that commands of this workspace came across."""

    def __init__(self, workspace: Path) -> None:
        self.path = workspace / "leaked.json"
        self._lock = threading.Lock()

    def read(self) -> Mapping[str, Sequence[str]]:
        """Return run id → a line for each of its pods; nothing where nothing can be read."""
        try:
            found = json.loads(self.path.read_bytes())
            return {str(run_id): [str(line) for line in lines] for run_id, lines in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def keep(self, record: RunRecord) -> None:
        """Note a run that is leaked; forget one whose pods are confirmed gone."""
        if record.phase is Phase.LEAKED:
            self.note(record.run_id, leaked_lines(record))
        elif record.all_gone:
            self.note(record.run_id, ())

    def note(self, run_id: str, lines: Sequence[str]) -> None:
        """Note lines about a run, or forget it where there are none."""
        with self._lock:
            self._note(run_id, lines)

    def _note(self, run_id: str, lines: Sequence[str]) -> None:
        known = self.read()
        if list(known.get(run_id, ())) == list(lines):
            return
        others = {other: said for other, said in known.items() if other != run_id}
        with suppress(OSError):
            if lines or others:
                text = json.dumps(others | ({run_id: list(lines)} if lines else {}), indent=1)
                write_atomically(self.path, text.encode(), private=True)
            else:
                self.path.unlink(missing_ok=True)
