"""Durable, ordered events: numbered, on disk before anything else, in the bucket as soon as it answers.

Knows events, and a function that writes bytes somewhere. The whole log of a life is one object: every PUT
carries all events so far, so that a lost or repeated PUT loses and repeats nothing.
"""

import os
import random
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from job.contract.events import Event
from job.patience import REFUSALS, DeniedError, Patience, TransferError

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30


class Outbox:
    """Takes events from any thread; one background thread brings them to the bucket."""

    def __init__(
        self,
        path: Path,
        put: Callable[[bytes], None],
        *,
        run_id: str,
        attempt: int,
        life: int,
        now: Callable[[], datetime],
        redact: Callable[[str], str] = str,
    ) -> None:
        self._file = path.open("ab")
        self._put = put
        self._common = {"run_id": run_id, "attempt": attempt, "life": life}
        self._now = now
        self._redact = redact
        self._log = bytearray()
        self._stored = 0
        self._seq = 0
        self._closed = False
        self._over = False
        self._hurry = False
        self._refusals = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._deliver, name="outbox", daemon=True)
        self._thread.start()

    def add(self, kind: type[Event], **fields: Any) -> bool:
        """Record an event; return False when a terminal one was recorded before: nothing follows that."""
        if "message" in fields:
            fields["message"] = self._redact(fields["message"])
        with self._changed:
            if self._over:
                return False
            event = kind(**self._common, seq=self._seq + 1, at=self._now(), **fields)
            line = event.encode() + b"\n"
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._seq = event.seq
            self._over = kind.terminal
            self._log += line
            self._changed.notify_all()
        return True

    def flush(self, patience: Patience) -> bool:
        """Wait until everything recorded is in the bucket; return whether it is when patience ends.

        A store that only ever refuses ends the wait early: a link that expired does not come back.
        """
        with self._changed:
            self._hurry, self._refusals = True, 0
            self._changed.notify_all()
            while self._stored < len(self._log) and not patience.over and self._refusals < REFUSALS:
                self._changed.wait(0.1)
            return self._stored == len(self._log)

    def close(self) -> None:
        """Stop delivering; what is not in the bucket stays in the file."""
        with self._changed:
            self._closed = self._over = True
            self._changed.notify_all()
        self._thread.join(timeout=1)
        self._file.close()

    def _deliver(self) -> None:
        wait = FIRST_WAIT_SECONDS
        while True:
            with self._changed:
                while self._stored == len(self._log) and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                everything = bytes(self._log)
            try:
                self._put(everything)
            except TransferError as error:
                self._refusals = self._refusals + 1 if isinstance(error, DeniedError) else 0
                self._back_off(wait)
                wait = min(wait * 2, LONGEST_WAIT_SECONDS)
                continue
            wait = FIRST_WAIT_SECONDS
            with self._changed:
                self._stored = len(everything)
                self._changed.notify_all()

    def _back_off(self, seconds: float) -> None:
        """Wait before another try: at the end of the life only shortly, since then nothing else is left to
        do.
        """
        with self._changed:
            hurried = self._hurry
            if not hurried:
                self._changed.wait_for(
                    lambda: self._closed or self._hurry,
                    timeout=seconds * random.uniform(0.5, 1),  # noqa: S311
                )
            else:
                self._changed.wait_for(lambda: self._closed, timeout=min(seconds, FIRST_WAIT_SECONDS))
