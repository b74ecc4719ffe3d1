"""What people watch: signs of life and the end of the trainer's output. May fail, never raises.

Knows records and functions that write bytes somewhere.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from job.contract.records import Stage
from job.patience import TransferError

LOG_BYTES = 200_000
LOG_SECONDS = 30


@dataclass
class Status:
    """Where the job stands; written by the main thread, read by the heartbeat."""

    stage: Stage = Stage.PREPARING
    epoch: int = 0
    step: int = 0


class Periodic:
    """Calls `action` at once, then every `seconds`, in a thread of its own. Transfer errors are dropped."""

    def __init__(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._seconds = seconds
        self._action = action
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, *, last: bool = False) -> None:
        """Stop, after one `last` call if that is asked for."""
        self._closed.set()
        self._thread.join(timeout=1)
        if last:
            self._once()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._once()
            self._closed.wait(self._seconds)

    def _once(self) -> None:
        try:
            self._action()
        except (TransferError, OSError):
            return


class LogTail:
    """The last lines of a child's output. A line that the child rewrote on its terminal is kept once."""

    def __init__(self, redact: Callable[[str], str], limit: int = LOG_BYTES) -> None:
        self._redact = redact
        self._limit = limit
        self._lines: deque[str] = deque()
        self._size = 0
        self._last_is_rewritten = False
        self._lock = threading.Lock()
        self._sent = ""

    def add(self, text: str, *, rewritten: bool = False) -> None:
        """Append a line; `rewritten` says that the next one takes its place (it ended in a carriage
        return).
        """
        with self._lock:
            if self._last_is_rewritten:
                self._size -= len(self._lines.pop()) + 1
            self._lines.append(text)
            self._size += len(text) + 1
            self._last_is_rewritten = rewritten
            while self._size > self._limit and len(self._lines) > 1:
                self._size -= len(self._lines.popleft()) + 1

    def text(self) -> str:
        """Return all that is kept, redacted."""
        with self._lock:
            kept = "".join(f"{line}\n" for line in self._lines)
        return self._redact(kept)

    def end(self, lines: int) -> str:
        """Return the last lines, redacted."""
        return "\n".join(self.text().splitlines()[-lines:])

    def send(self, put: Callable[[bytes], None]) -> None:
        """Write the text by `put` if it changed since the last time."""
        text = self.text()
        if text != self._sent:
            put(text.encode(errors="replace"))
            self._sent = text
