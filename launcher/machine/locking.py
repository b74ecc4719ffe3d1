"""Locks between processes of this machine: each ends with its holder, however that ends.

Knows the file system alone.
"""

import fcntl
import os
import time
from pathlib import Path

POLL_SECONDS = 0.1


class FileLock:
    """A lock on a file, which many may share or one may have alone. Not for use by several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self, *, shared: bool = False, wait_seconds: float = 0.0) -> bool:
        """Take the lock, giving back first what this object has of it; tell whether it was to be had.

        Raises OSError where the file cannot be made.
        """
        self.release()
        deadline = time.monotonic() + wait_seconds
        while True:
            if self._try(fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)

    def is_held(self) -> bool:
        """Tell whether this object has the lock. One whose file was deleted protects nothing any more."""
        return self._descriptor is not None and self._is_of_file(self._descriptor)

    def fileno(self) -> int:
        """Return the descriptor of a lock that is held: a child process that gets it keeps the lock, too."""
        assert self._descriptor is not None
        return self._descriptor

    def release(self, *, remove: bool = False) -> None:
        """Give the lock back, if it is held; `remove` deletes the file of one that is had alone."""
        if self._descriptor is None:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def _try(self, kind: int) -> bool:
        # Child processes do not inherit it (PEP 446), so none of them keeps the lock for a holder that died.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        if not self._is_of_file(descriptor):
            # It was deleted while we came to its lock: the next try makes another.
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def _is_of_file(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False
