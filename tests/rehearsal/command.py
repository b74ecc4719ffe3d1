"""A command of retrain as a child process: a person sees what it shows, and all of that is kept."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

COMMAND = """
import signal
from launcher.cli.root import main
# A shell that starts things in the background has SIGINT ignored, which children inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
EMPTY_SIZE = bytes(8)


class Command:
    """A command of retrain. On a terminal of its own where stderr is one, so that it shows the live view."""

    def __init__(self, *arguments: str, cwd: Path, environment: Mapping[str, str], shown: bool) -> None:
        """Start it; with `shown` what it says is passed on to stdout and stderr."""
        self._said = bytearray()
        if shown and sys.stderr.isatty():
            near, far = pty.openpty()
            size = fcntl.ioctl(sys.stderr, termios.TIOCGWINSZ, EMPTY_SIZE)
            fcntl.ioctl(far, termios.TIOCSWINSZ, size)
            sources, targets = {near: 1}, (far, far)
        else:
            out, err = os.pipe(), os.pipe()
            sources, targets = {out[0]: 1, err[0]: 2}, (out[1], err[1])
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=targets[0],
            stderr=targets[1],
        )
        for target in {*targets}:
            os.close(target)
        self._readers = [
            threading.Thread(target=self._read, args=(source, to if shown else None), daemon=True)
            for source, to in sources.items()
        ]
        for reader in self._readers:
            reader.start()

    @property
    def said(self) -> bytes:
        """All that it has said."""
        return bytes(self._said)

    def ended(self) -> bool:
        """Whether it is over."""
        return self._process.poll() is not None

    def wait(self) -> int:
        """Wait for its end and return its exit code, negative for a signal."""
        code = self._process.wait()
        for reader in self._readers:
            reader.join()
        return code

    def kill(self) -> None:
        """SIGKILL it."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self.wait()

    def _read(self, source: int, to: int | None) -> None:
        # A pseudo-terminal ends with EIO, a pipe with nothing.
        with suppress(OSError):
            while data := os.read(source, 65_536):
                self._said += data
                if to is not None:
                    os.write(to, data)
        os.close(source)
