"""Files of our own: written under a temporary name, then put in place at once; and what their disk says.

Knows the file system and the launcher's errors.
"""

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from launcher.errors import LocalDiskError

CHUNK_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[IO[bytes]]:
    """Give a file to write that takes the place of `path` when all went well, and else leaves nothing.

    `private` lets only the owner read it. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No process id: containers that share a folder may have the same.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write `data` to `path` so that nobody ever sees half of it; `private` lets only the owner read it.

    Raises OSError.
    """
    with replacing(path, private=private) as file:
        file.write(data)


def keep_end(path: Path, *, above: int, end: int) -> None:
    """Cut a log that is longer than `above` bytes down to its last `end`; who appends to it goes on behind.

    Raises OSError.
    """
    if path.stat().st_size > above:
        path.write_bytes(path.read_bytes()[-end:])


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what is left of a file, a piece at a time."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def sha256_of(path: Path, *, beat: Callable[[], None] = lambda: None) -> str:
    """Return a file's SHA-256; `beat` is called all along. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in chunks(file):
            digest.update(chunk)
            beat()
    return digest.hexdigest()


class GrowingHash:
    """The SHA-256 of a file that is still being written, so that it need not be read again at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self.bytes = 0
        """How many are hashed."""

    def follow(self, *, until: int | None = None, beat: Callable[[], None] = lambda: None) -> None:
        """Hash what the file holds by now, or of it no more than its first `until` bytes.

        `beat` is called all along. Raises OSError.
        """
        if self._file is None:
            self._file = self._path.open("rb", buffering=0)
        while chunk := self._file.read(
            CHUNK_BYTES if until is None else min(CHUNK_BYTES, until - self.bytes)
        ):
            self._digest.update(chunk)
            self.bytes += len(chunk)
            beat()

    def hexdigest(self) -> str:
        """Return the SHA-256 of what is hashed."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a power cut. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(trouble: str, *, when_full: str = "Make room; the next pass tries again.") -> Iterator[None]:
    """Turn OSError into LocalDiskError: `trouble` says in words what could not be done, and where."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in _FULL
        why = "the disk is full" if full else (exc.strerror or type(exc).__name__)
        raise LocalDiskError(
            f"{trouble}: {why}.",
            next_step=when_full if full else "Check that the folder exists and may be written.",
        ) from exc
