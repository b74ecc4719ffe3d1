"""Resume state: a trainer's folder as a plain tar in one of two slots, and back.

Knows tar, the slots and their receipts. An object and its receipt cannot be replaced as one: while a slot is
rewritten its old receipt names other bytes. So a reader checks SHA-256 against the receipt and falls back to
the other slot, which is never touched meanwhile.
"""

import shutil
import tarfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from job.contract import keys
from job.contract.manifest import Input, Link
from job.contract.records import ArtefactKind, Receipt
from job.errors import JobError
from job.files import fresh_folder
from job.patience import Patience, TransferError
from job.trainers.base import ResumeFrom
from job.transfer import Bucket, Transfer, fetch_verified
from job.unpack import unpack_tar
from job.uploads import Artefact, Vouching

LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class SavedState:
    """A resume state that can be fetched."""

    name: str
    epoch: int
    step: int
    bytes: int
    sha256: str
    link: Link


def candidates(
    receipts: dict[str, Receipt], bucket: Bucket, given: Iterable[Input], *, usable: Callable[[int], bool]
) -> list[SavedState]:
    """Return the states to resume from, best first: own slots by step, then what the manifest names, by step.

    A state is `usable` when no checkpoint up to its epoch would be lost by skipping it.
    """
    own = sorted(
        (receipts[slot] for slot in keys.STATE_SLOTS if slot in receipts and usable(receipts[slot].epoch)),
        key=lambda receipt: (receipt.step, receipt.at),
        reverse=True,
    )
    found = [SavedState(r.key, r.epoch, r.step, r.bytes, r.sha256, bucket.link(r.key)) for r in own]
    found += sorted(
        (SavedState(i.name, i.epoch or 0, i.step or 0, i.bytes, i.sha256, i.link) for i in given),
        key=lambda state: state.step,
        reverse=True,
    )
    return found


def restore(
    states: Iterable[SavedState],
    transfer: Transfer,
    folder: Path,
    patience: Patience,
    *,
    warn: Callable[[str], object],
) -> ResumeFrom | None:
    """Fetch and unpack the first state that proves whole; None when there is none, which means the
    beginning.
    """
    for state in states:
        archive = folder.with_suffix(".tar")
        try:
            whole = fetch_verified(
                transfer,
                state.link,
                state.name,
                archive,
                size=state.bytes,
                sha256=state.sha256,
                patience=patience,
            )
            if whole:
                unpack_tar(archive, fresh_folder(folder))
                return ResumeFrom(folder, state.epoch, state.step)
            warn(f"{state.name} is not what its receipt says; looking for an older state")
        except TransferError as error:
            warn(f"{state.name} cannot be fetched ({error}); looking for an older state")
        except JobError as error:
            patience.check()
            warn(f"{state.name} cannot be used ({error}); looking for an older state")
        finally:
            archive.unlink(missing_ok=True)
    return None


def pack(folder: Path, archive: Path) -> None:
    """Write `folder` as a tar that is the same for the same content: sorted, without times and owners."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (member.isreg() or member.isdir()):
            return None
        member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as target:
        for path in sorted(folder.rglob("*")):
            target.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=plain)


class StateKeeper:
    """Uploads the newest state in a thread of its own, so that it never stands before a checkpoint.

    A state is uploaded only once all checkpoints up to its epoch are in the bucket: who resumes from it
    will not write them again. The folder is removed once packed, to keep the disk's use bounded.
    """

    def __init__(
        self,
        vouching: Vouching,
        folder: Path,
        patience: Patience,
        *,
        settled: Callable[[int], bool],
        newest: Receipt | None,
        warn: Callable[[str], object],
    ) -> None:
        self._vouching = vouching
        self._folder = folder
        self._patience = patience
        self._settled = settled
        self._warn = warn
        self._next_slot = keys.STATE_SLOTS[newest is not None and newest.key == keys.STATE_SLOTS[0]]
        self._offered: tuple[Path, int, int] | None = None
        self._busy = False
        self._closed = False
        self._draining = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="state", daemon=True)
        self._thread.start()

    def offer(self, path: Path, epoch: int, step: int) -> None:
        """Take a complete state folder; one that still waits is replaced by it.

        The folder is moved away at once: trainers remove their older states, and half a state would pass for
        one.
        """
        taken = self._folder / f"state-{epoch}-{step}"
        try:
            path.replace(taken)
        except OSError as error:
            self._warn(f"the resume state of epoch {epoch} was not kept: {error.strerror}")
            return
        with self._changed:
            if self._offered is not None:
                shutil.rmtree(self._offered[0], ignore_errors=True)
            self._offered = (taken, epoch, step)
            self._changed.notify_all()

    def drain(self, patience: Patience) -> None:
        """Wait for what is under way. Checkpoints are done by now: a state that lacks one is dropped."""
        with self._changed:
            self._draining = True
            while (self._offered or self._busy) and not self._closed and not patience.over:
                self._changed.wait(0.1)

    def close(self) -> None:
        """Take nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                while self._offered is None and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                assert self._offered is not None
                (path, epoch, step), self._offered, self._busy = self._offered, None, True
            try:
                self._keep(path, epoch, step)
            except (JobError, OSError, tarfile.TarError) as error:
                self._warn(f"the resume state of epoch {epoch} was not kept: {error}")

    def _keep(self, path: Path, epoch: int, step: int) -> None:
        archive = self._folder / "state.tar"
        pack(path, archive)
        shutil.rmtree(path, ignore_errors=True)
        while not self._settled(epoch):
            newer = self._offered
            if (
                self._closed
                or self._draining
                or self._patience.over
                or (newer is not None and self._settled(newer[1]))
            ):
                return
            self._patience.sleep(LOOK_SECONDS)
        slot = self._next_slot
        artefact = Artefact(ArtefactKind.STATE, slot, Path(slot).name, epoch, step, archive)
        try:
            self._vouching.vouch(artefact, self._patience)
        finally:
            archive.unlink(missing_ok=True)
        self._next_slot = next(other for other in keys.STATE_SLOTS if other != slot)
