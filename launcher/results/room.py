"""Room on a disk for files that come side by side: what is promised to one is not free for another.

Knows the file system and the launcher's errors.
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.errors import LocalDiskError

FREE_BYTES_MIN = 64 << 20
"""Left free beyond the files themselves."""


class Room:
    """The room of one disk, shared by all that fill it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on_their_way: set[Promised] = set()

    @contextmanager
    def promised(self, needed: int, folder: Path, name: str) -> "Iterator[Promised]":
        """Keep `needed` bytes of the disk of `folder` for a file while it comes.

        Raises LocalDiskError when they are not free, or promised to others already.
        """
        promised = Promised(needed)
        with self._lock:
            # The others first: what one of them writes in between counts twice rather than not at all.
            others = sum(other.bytes for other in self._on_their_way)
            free = shutil.disk_usage(folder).free
            if others + needed + FREE_BYTES_MIN > free:
                taken = f", {others >> 20} MiB of it for files on their way" if others else ""
                raise LocalDiskError(
                    f"{folder} has {free >> 20} MiB free{taken}; {name} needs {needed >> 20} MiB more.",
                    next_step="Make room; the download goes on where it was.",
                )
            self._on_their_way.add(promised)
        try:
            yield promised
        finally:
            with self._lock:
                self._on_their_way.remove(promised)


class Promised:
    """What is still to come of one file. One thread at a time tells of it; any may ask."""

    def __init__(self, needed: int) -> None:
        self.bytes = needed

    def came(self, count: int) -> None:
        """Note bytes that are in the file now."""
        self.bytes = max(0, self.bytes - count)
