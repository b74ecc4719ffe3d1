"""What the child says on stdout: one JSON object a line, the reports of `job.trainers.base`.

    {"kind": "step", "step": 7, "epoch": 2, "loss": 0.118}

Knows the reports; no training library. Both sides of the pipe use it.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn, TextIO

from job.contract.reasons import Reason
from job.trainers.base import Remark, Report, Saved, Started, StateSaved, Stepped, Trouble

KINDS: dict[str, type[Report]] = {
    "started": Started,
    "step": Stepped,
    "saved": Saved,
    "state": StateSaved,
    "remark": Remark,
    "trouble": Trouble,
}
_NAMES = {kind: name for name, kind in KINDS.items()}
_READ: dict[str, Callable[[Any], Any]] = {"path": Path, "reason": Reason, "message": str, "loss": float}
"""How a field is read back; a field not named here is a whole number."""


def encode(report: Report) -> str:
    """Return the report as one line of JSON, without its end."""
    return json.dumps({"kind": _NAMES[type(report)]} | asdict(report), default=str)


def decode(line: str) -> Report | None:
    """Read a line that `encode` wrote; anything else is None."""
    try:
        said = json.loads(line)
        kind = KINDS[said["kind"]]
        return kind(**{part.name: _READ.get(part.name, int)(said[part.name]) for part in fields(kind)})
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def private_stdout() -> TextIO:
    """Return this process's stdout for reports alone; all else that is printed reaches stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return stream


def line_writer(stream: TextIO) -> Callable[[str], None]:
    """Return a function that writes a line at once: a report in a buffer is lost when the child is killed."""

    def write(line: str) -> None:
        stream.write(line + "\n")
        stream.flush()

    return write


def leave(code: int) -> NoReturn:
    """End this process at once: taking the training libraries apart takes seconds and writes nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
