"""Folders for passing files: gone when they are given back, or swept up later if their borrower was killed.

Knows the file system and locks between processes of this machine.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.machine.locking import FileLock

_LOCK = ".lent"
_MAKING_SECONDS = 60.0
"""A folder younger than this may be about to get its lock."""


@contextmanager
def lent(shelf: Path) -> Iterator[Path]:
    """Lend a new folder in `shelf`, and clear away what killed processes left there. Raises OSError."""
    _sweep(shelf)
    folder = Path(tempfile.mkdtemp(dir=shelf))
    lock = FileLock(folder / _LOCK)
    lock.take()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _sweep(shelf: Path) -> None:
    for folder in shelf.iterdir():
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < _MAKING_SECONDS:
                continue
            lock = FileLock(folder / _LOCK)
            if lock.take():
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()
