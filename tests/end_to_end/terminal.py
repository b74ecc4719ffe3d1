"""A terminal in which one command runs, for what only a terminal does: Ctrl-C, and closing it."""

import os
import pty
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Terminal:
    """A command that leads the session of a pseudo-terminal, which a thread reads as a window would."""

    def __init__(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], deaf_to_hangup: bool = False
    ) -> None:
        """Start a command; `deaf_to_hangup` is what nohup does."""
        self.shown = ""
        self.code: int | None = None
        """How the command ended, negative for a signal; None while it runs."""
        self._closed = threading.Event()
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            # Who starts tests in the background has SIGINT ignored, which children inherit.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if deaf_to_hangup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.execve(argv[0], list(argv), {**env, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press(self, keys: bytes) -> None:
        """Type something."""
        os.write(self._master, keys)

    def close(self) -> None:
        """Close the window."""
        self._closed.set()
        self._reader.join()

    def ended(self) -> bool:
        """Whether the command is over; then `code` says how."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds: float = 120) -> int:
        """Wait for the command's end and all that it shows; return its code."""
        end = time.monotonic() + seconds
        while not self.ended():
            assert time.monotonic() < end, self.shown
            time.sleep(0.02)
        self._reader.join(timeout=5)
        assert self.code is not None
        return self.code

    def _read(self) -> None:
        # The descriptor is closed here alone: the terminal lives as long as anybody reads it.
        while not self._closed.is_set():
            if not select.select([self._master], [], [], 0.05)[0]:
                continue
            try:
                data = os.read(self._master, 65_536)
            except OSError:  # the last process has left the terminal
                break
            self.shown += data.decode(errors="replace")
        os.close(self._master)
