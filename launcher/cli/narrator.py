"""Narration: one line on stderr for each thing that happens, above the live view where there is one."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

REPEAT_SECONDS = 60.0
"""A line that says the same again is held back for this long."""


class Narrator:
    """The Notifier of the command line."""

    def __init__(self) -> None:
        self.write: Callable[[str], None] = _to_stderr
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def say(self, message: str) -> None:
        """Say one line, unless it was said a moment ago."""
        # What a pod says of itself may get in here: nothing of it may move a terminal's cursor.
        message = "".join(character if character.isprintable() else " " for character in message)
        now = time.monotonic()
        with self._lock, suppress(OSError):  # where nobody listens any more, the run goes on
            if now - self._said.get(message, -REPEAT_SECONDS) < REPEAT_SECONDS:
                return
            self._said[message] = now
            self.write(f"{time.strftime('%H:%M:%S')} {message}")


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
