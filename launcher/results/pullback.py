"""Brings artefacts home: download, verify against the receipt, only then give them their name.

Knows the Store Protocol, receipts and the local disk. What a receipt says comes from the pod: its name is a
claim to be checked, its hash is what the file must have.
"""

import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from job.contract.records import Receipt
from launcher.errors import FileInUse, IntegrityError, ObjectMissing
from launcher.machine.files import GrowingHash, disk_errors, sync
from launcher.machine.locking import FileLock
from launcher.machine.pulse import pulsed
from launcher.ports import Store
from launcher.results.room import Promised, Room
from launcher.results.verified import Verified

PART_SUFFIX = ".part"
LOCK_SECONDS = 10.0
"""How long another retrain that fetches the very same file is waited for: less than a lease lasts."""
BEAT_SECONDS = 2.0
"""The longest silence towards `on_bytes`."""
SYNC_BYTES = 32 << 20
"""After so many the disk is made to write, so that little is left to wait for at the end."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
"""Names that are devices on Windows, whatever follows the dot."""


class PullBack:
    """Fills one folder with verified files. Locks keep two launchers from writing the same file."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        on_bytes: Callable[[str, int], None] | None = None,
        room: Room | None = None,
    ) -> None:
        """Work on `folder`, which is made when needed.

        `on_bytes` gets a name and the bytes that came: at least every few seconds, then with 0, as long as a
        file is fetched or hashed. An error of it ends the call; what came is kept to go on from. Where nobody
        listens, no thread is started to keep the caller awake. Who fills one disk from several threads gives
        each the same `room`.
        """
        self._store = store
        self.folder = folder
        self._on_bytes = on_bytes
        self._room = room or Room()
        self._beaten_at = time.monotonic()

    def pull(self, key: str, receipt: Receipt, *, name: str | None = None) -> Path:
        """Return the path of the receipt's file, fetched from `key` unless it is there already.

        `name` is the file name, by default the receipt's. What an earlier call left unfinished is taken up. A
        file of this name with other content is replaced, once its successor is whole.

        Raises IntegrityError when the object is twice not what the receipt says, ObjectMissing or
        StorageError when the store fails, LocalDiskError when this machine's disk cannot keep the file,
        FileInUse while another retrain is fetching this very file.
        """
        name = file_name(receipt.name if name is None else name)
        with self._writing(name):
            verified = Verified(self.folder, beat=partial(self._beat, name))
            final = self.folder / name
            if verified.holds(name, receipt):
                return final
            part = self.folder / (name + PART_SUFFIX)
            try:
                written = self._fetch(key, receipt, part)
            except IntegrityError:
                # What was there may have been the start of another object: once more, from nothing.
                written = self._fetch(key, receipt, part)
            sync(part)
            part.replace(final)
            sync(self.folder)
            verified.remember(name, receipt, written)
            return final

    def _fetch(self, key: str, receipt: Receipt, part: Path) -> os.stat_result:
        """Complete `part` and verify it, else remove it; return how it looked before its end was hashed.

        More than the receipt says is not read.
        """
        have = part.stat().st_size if part.exists() else 0
        if have > receipt.bytes:
            have = 0
        try:
            with (
                closing(GrowingHash(part)) as hashed,
                self._room.promised(receipt.bytes - have, self.folder, part.name) as promised,
            ):
                self._complete(key, receipt, part, have, hashed, promised)
                written = part.stat()
                hashed.follow(beat=partial(self._beat, part.stem))
                found, size = hashed.hexdigest(), hashed.bytes
            if (found, size) != (receipt.sha256, receipt.bytes):
                raise IntegrityError(
                    f"{part.stem} is not what its receipt says: SHA-256 {found} of {size} bytes instead of "
                    f"{receipt.sha256} of {receipt.bytes}.",
                    next_step="The object in the bucket is damaged; an earlier checkpoint may serve.",
                )
            return written
        except (IntegrityError, ObjectMissing):
            part.unlink(missing_ok=True)
            raise

    def _complete(
        self, key: str, receipt: Receipt, part: Path, have: int, hashed: GrowingHash, promised: Promised
    ) -> None:
        """Bring what is missing of `part`; hash what the file holds by then, while more of it comes."""
        beat = partial(self._beat, part.stem)
        if have:
            hashed.follow(until=have, beat=beat)
        if have < receipt.bytes or have == 0:
            synced = have
            with closing(self._counts(key, part, have)) as counts:
                for count in counts:
                    have += count
                    promised.came(count)
                    self._tell(part.stem, count)
                    if have > receipt.bytes:
                        break
                    if count:
                        hashed.follow(beat=beat)
                    if have - synced >= SYNC_BYTES:
                        sync(part)
                        synced = have

    def _counts(self, key: str, part: Path, have: int) -> Generator[int]:
        download = partial(self._store.download, key, part, offset=have)
        yield from download() if self._on_bytes is None else pulsed(download, seconds=BEAT_SECONDS)

    def _tell(self, name: str, count: int) -> None:
        if self._on_bytes is not None:
            self._on_bytes(name, count)
        self._beaten_at = time.monotonic()

    def _beat(self, name: str) -> None:
        if time.monotonic() - self._beaten_at >= BEAT_SECONDS:
            self._tell(name, 0)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Hold the file's lock; turn the local disk's errors into LocalDiskError."""
        lock = FileLock(self.folder / f".{name}.lock")
        trouble = f"{name} cannot be kept in {self.folder}"
        with disk_errors(trouble, when_full="Make room; the download goes on where it was."):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not lock.take(wait_seconds=LOCK_SECONDS):
                raise FileInUse(
                    f"Another retrain is fetching {name} to {self.folder} now.",
                    next_step="It is looked for again on the next pass.",
                )
            try:
                yield
            finally:
                lock.release(remove=True)


def file_name(name: str) -> str:
    """Return `name` if it is a plain file name on every system and none of our own. Raises IntegrityError."""
    plain = _NAME.fullmatch(name) and not _RESERVED.fullmatch(name) and not name.endswith(".")
    if not plain or name.endswith(PART_SUFFIX):
        raise IntegrityError(
            f"A receipt names its file {name[:60]!r}, which is no plain file name.",
            next_step="Nothing was written. Only a pod that was tampered with says so.",
        )
    return name
