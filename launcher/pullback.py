"""Brings artefacts home: download, verify against the receipt, only then give them their name.

Knows the Store Protocol, receipts and the local disk. What a receipt says comes from the pod: its name is a
claim to be checked, its hash is what the file must have.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from job.contract.records import Receipt
from launcher.errors import IntegrityError, LeaseHeld, LocalDiskError, ObjectMissing
from launcher.ports import Store

PART_SUFFIX = ".part"
RECORD_NAME = ".verified.json"
LOCK_NAME = ".pullback.lock"
LOCK_SECONDS = 10.0
FREE_BYTES_MIN = 64 << 20
"""Left free beyond the file itself."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
"""Names that are devices on Windows, whatever follows the dot."""


class PullBack:
    """Fills one folder with verified files.

    Which file was verified is kept in `.verified.json` with size and time of change, so that a pass over
    a hundred checkpoints hashes none of them again. A lock keeps two launchers from writing the same folder.
    """

    def __init__(
        self, store: Store, folder: Path, *, on_bytes: Callable[[str, int], None] = lambda _name, _count: None
    ) -> None:
        """Work on `folder`, which is made when needed. `on_bytes` gets a name and the bytes that came."""
        self._store = store
        self.folder = folder
        self._on_bytes = on_bytes
        self._verified: dict[str, list[int | str]] | None = None

    def pull(self, key: str, receipt: Receipt, *, name: str | None = None) -> Path:
        """Return the path of the receipt's file, fetched from `key` unless it is there already.

        `name` is the file name, by default the receipt's. What an earlier call left unfinished is taken up. A
        file of this name with other content is replaced, once its successor is whole.

        Raises IntegrityError when the object is twice not what the receipt says, ObjectMissing or
        StorageError when the store fails, LocalDiskError when this machine cannot keep the file, LeaseHeld
        when somebody else fills this folder now.
        """
        name = file_name(receipt.name if name is None else name)
        with self._writing(name):
            final = self.folder / name
            if self._is_verified(final, receipt):
                return final
            part = self.folder / (name + PART_SUFFIX)
            try:
                self._fetch(key, receipt, part)
            except IntegrityError:
                # What was there may have been the start of another object: once more, from nothing.
                self._fetch(key, receipt, part)
            _sync(part)
            part.replace(final)
            _sync(self.folder)
            self._remember(final, receipt.sha256)
            return final

    def _fetch(self, key: str, receipt: Receipt, part: Path) -> None:
        """Complete `part` and verify it, else remove it. More than the receipt says is not read."""
        have = part.stat().st_size if part.exists() else 0
        if have > receipt.bytes:
            have = 0
        try:
            self._complete(key, receipt, part, have)
            found, size = _sha256(part), part.stat().st_size
            if (found, size) != (receipt.sha256, receipt.bytes):
                raise IntegrityError(
                    f"{part.stem} is not what its receipt says: SHA-256 {found} of {size} bytes instead of "
                    f"{receipt.sha256} of {receipt.bytes}.",
                    next_step="The object in the bucket is damaged; an earlier checkpoint may serve.",
                )
        except (IntegrityError, ObjectMissing):
            part.unlink(missing_ok=True)
            raise

    def _complete(self, key: str, receipt: Receipt, part: Path, have: int) -> None:
        self._check_space(receipt.bytes - have, part.name)
        if have < receipt.bytes or have == 0:
            for count in self._store.download(key, part, offset=have):
                have += count
                self._on_bytes(part.stem, count)
                if have > receipt.bytes:
                    break

    def _check_space(self, needed: int, name: str) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed + FREE_BYTES_MIN > free:
            raise LocalDiskError(
                f"{self.folder} has {free >> 20} MiB free; {name} needs {needed >> 20} MiB more.",
                next_step="Make room; the download goes on where it was.",
            )

    def _is_verified(self, path: Path, receipt: Receipt) -> bool:
        if path.is_symlink() or not path.is_file() or path.stat().st_size != receipt.bytes:
            return False
        if self._record().get(path.name) == _stamp(path, receipt.sha256):
            return True
        if _sha256(path) != receipt.sha256:
            return False
        self._remember(path, receipt.sha256)
        return True

    def _record(self) -> dict[str, list[int | str]]:
        if self._verified is None:
            try:
                read = json.loads((self.folder / RECORD_NAME).read_bytes())
                self._verified = read if isinstance(read, dict) else {}
            except (OSError, ValueError):
                # It only saves work: without it every file is hashed once.
                self._verified = {}
        return self._verified

    def _remember(self, path: Path, sha256: str) -> None:
        record = self._record()
        record[path.name] = _stamp(path, sha256)
        temporary = self.folder / (RECORD_NAME + PART_SUFFIX)
        temporary.write_text(json.dumps(record, indent=0))
        temporary.replace(self.folder / RECORD_NAME)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Hold the folder's lock; turn the local disk's errors into LocalDiskError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / LOCK_NAME, timeout=LOCK_SECONDS):
                yield
        except Timeout as exc:
            raise LeaseHeld(
                f"Another retrain is writing to {self.folder}.", next_step="Wait for it, or end it."
            ) from exc
        except OSError as exc:
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full" if full else (exc.strerror or type(exc).__name__)
            raise LocalDiskError(
                f"{name} cannot be kept in {self.folder}: {why}.",
                next_step="Make room; the download goes on where it was."
                if full
                else "Check that the folder exists and may be written.",
            ) from exc


def file_name(name: str) -> str:
    """Return `name` if it is a plain file name on every system and none of our own. Raises IntegrityError."""
    plain = _NAME.fullmatch(name) and not _RESERVED.fullmatch(name) and not name.endswith(".")
    if not plain or name.endswith(PART_SUFFIX):
        raise IntegrityError(
            f"A receipt names its file {name[:60]!r}, which is no plain file name.",
            next_step="Nothing was written. Only a pod that was tampered with says so.",
        )
    return name


def _stamp(path: Path, sha256: str) -> list[int | str]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, sha256]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
