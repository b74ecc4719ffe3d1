"""Where results lie on this machine. The only place that spells a path below `models/` or the workspace.

models/<output_name>-000002.safetensors   every checkpoint, equal to its receipt
models/<output_name>.safetensors          the selected one
models/<output_name>/samples/epoch-000002 its images; scores/ what they measure; run.json the record
models/<output_name>/loss.csv             the loss of every step that the job told
models/<output_name>/earlier/<time>       what an earlier run of the same name had left
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from job.contract.records import ArtefactKind, Receipt
from launcher.errors import IntegrityError, LocalDiskError
from launcher.machine.files import chunks, disk_errors, replacing, write_atomically
from launcher.model import Brought, RunRecord
from launcher.ports import Store
from launcher.results.lending import lent
from launcher.results.pullback import PullBack
from launcher.results.room import FREE_BYTES_MIN, Room
from launcher.results.unpacking import unpack
from launcher.results.verified import Verified

FETCH_AGAIN = "Something changed or removed it after it came home; it has to be fetched again."


class Home:
    """The user's folders."""

    def __init__(self, models_dir: Path, workspace: Path) -> None:
        self.models_dir = models_dir.resolve()
        self.workspace = workspace.resolve()
        self._room = Room()

    def results(self, output_name: str) -> Path:
        """Return the folder of a run's results beside its checkpoints."""
        return self.models_dir / output_name

    def selected(self, output_name: str) -> Path:
        """Return the path of the selected checkpoint."""
        return self.models_dir / f"{output_name}.safetensors"

    def check(self) -> None:
        """Find out, before anything is spent, whether results can be kept; leaves nothing behind.

        Raises LocalDiskError.
        """
        folder = self.models_dir
        while not folder.exists():
            folder = folder.parent
        with disk_errors(f"results cannot be kept in {self.models_dir}"):
            with tempfile.TemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
            if free < FREE_BYTES_MIN:
                raise LocalDiskError(
                    f"results cannot be kept in {self.models_dir}: {free >> 20} MiB are free on its disk, "
                    f"{FREE_BYTES_MIN >> 20} MiB at least are needed.",
                    next_step="Make room, or set run.models_dir to another disk.",
                )

    def scratch(self) -> Path:
        """Return a folder for passing files, made if it is not there. Raises LocalDiskError."""
        folder = self.workspace / "scratch"
        with disk_errors(f"{folder} cannot be made"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def passing(self) -> Iterator[Path]:
        """Lend a folder that is gone afterwards. Raises LocalDiskError when there is no room for it."""
        scratch = self.scratch()
        with ExitStack() as given_back:
            with disk_errors(f"{scratch} cannot be written"):
                folder = given_back.enter_context(lent(scratch))
            yield folder

    def set_aside(self, output_name: str, now: datetime) -> Path | None:
        """Move what an earlier run of this name left out of the way; return where to, None for nothing.

        Raises LocalDiskError when something cannot be moved; what was moved by then stays there.
        """
        results = self.results(output_name)
        with disk_errors(f"what an earlier run left cannot be moved to {results / 'earlier'}"):
            old = [
                path
                for path in self.models_dir.glob(f"{output_name}*.safetensors")
                if _belongs(path, output_name)
            ]
            if results.is_dir():
                old += [path for path in results.iterdir() if path.name != "earlier"]
            if not old:
                return None
            target = _new_folder(results / "earlier" / f"{now:%Y%m%d-%H%M%S}")
            for path in old:
                shutil.move(path, target / path.name)
        return target

    def fetch(
        self,
        store: Store,
        key: str,
        receipt: Receipt,
        record: RunRecord,
        *,
        on_bytes: Callable[[str, int], None] | None = None,
    ) -> Path:
        """Bring an artefact home, verified, and return its path.

        `on_bytes` gets a name and the bytes that came, at least every few seconds; its errors end the call.

        Raises IntegrityError when it is not what its receipt says, StorageError when it cannot be had,
        LocalDiskError when it cannot be kept, FileInUse while another retrain fetches it.
        """
        path = self._path(receipt, record)
        PullBack(store, path.parent, on_bytes=on_bytes, room=self._room).pull(key, receipt, name=path.name)
        if receipt.kind is ArtefactKind.SAMPLES:
            plan = record.spec.evaluation
            wanted = {f"{prompt.name}.png" for prompt in plan.prompts} if plan else set()
            unpack(path, path.with_suffix(""), wanted)
        return path

    def absent(self, record: RunRecord) -> tuple[Brought, ...]:
        """Return what was brought home and is not here: deleted, damaged, or on another machine.

        Of several attempts' versions of one artefact the newest counts. Cheap where nothing was touched.
        """
        newest = {
            self._path(item.receipt, record): item
            for item in sorted(record.brought, key=lambda item: item.receipt.attempt)
        }
        folders = {path.parent: Verified(path.parent) for path in newest}
        return tuple(
            item for path, item in newest.items() if not folders[path.parent].holds(path.name, item.receipt)
        )

    def finish(self, record: RunRecord) -> RunRecord:
        """Promote the selected checkpoint and write the record beside the results. May be done again.

        Returns the record with the paths of this machine, as it was written. Raises LocalDiskError when
        the selected checkpoint is not here, not what its receipt says, or cannot be copied.
        """
        record = self._as_seen_here(record)
        if record.selection is not None:
            self._promote(record, record.selection.epoch)
        path = self.results(record.spec.output_name) / "run.json"
        with disk_errors(f"{path} cannot be written"):
            write_atomically(path, record.model_dump_json(indent=2).encode())
        return record

    def keep_losses(self, output_name: str, table: str) -> None:
        """Write the loss curve of a run beside its results. Raises LocalDiskError."""
        path = self.results(output_name) / "loss.csv"
        with disk_errors(f"{path} cannot be written"):
            write_atomically(path, table.encode())

    def _path(self, receipt: Receipt, record: RunRecord) -> Path:
        """Return where an artefact lies on this machine. The name in its receipt, the pod's, is not used."""
        results = self.results(record.spec.output_name)
        match receipt.kind:
            case ArtefactKind.CHECKPOINT:
                return self.models_dir / record.spec.recipe.checkpoint_name(receipt.epoch)
            case ArtefactKind.SAMPLES:
                return results / "samples" / f"epoch-{receipt.epoch:06d}.zip"
            case ArtefactKind.SCORES:
                return results / "scores" / f"epoch-{receipt.epoch:06d}.json"
            case ArtefactKind.STATE:
                raise IntegrityError(f"{receipt.key[:60]!r} is a resume state; none is kept at home.")

    def _as_seen_here(self, record: RunRecord) -> RunRecord:
        """Return the record with the paths of this machine, wherever a file is here."""
        away = {self._path(item.receipt, record) for item in self.absent(record)}
        brought = []
        for item in record.brought:
            path = self._path(item.receipt, record)
            brought.append(item if path in away else item.model_copy(update={"path": str(path)}))
        return record.model_copy(update={"brought": tuple(brought)})

    def _promote(self, record: RunRecord, epoch: int) -> None:
        """Copy a checkpoint to the model's name, hashing what is copied: only that is sure to be there."""
        target = self.selected(record.spec.output_name)
        receipt = next((item.receipt for item in record.checkpoints() if item.receipt.epoch == epoch), None)
        if receipt is None:
            raise LocalDiskError(f"{target} cannot be made: the checkpoint of epoch {epoch} never came home.")
        verified = Verified(self.models_dir)
        if verified.holds(target.name, receipt):
            return
        source = self._path(receipt, record)
        gone = f"{target} is not made: {source} is no longer what its receipt says."
        if not source.is_file():
            raise LocalDiskError(gone, next_step=FETCH_AGAIN)
        digest = hashlib.sha256()
        with (
            disk_errors(f"{target} cannot be made from {source}"),
            source.open("rb") as original,
            replacing(target) as copy,
        ):
            for chunk in chunks(original):
                digest.update(chunk)
                copy.write(chunk)
            if digest.hexdigest() != receipt.sha256:
                raise LocalDiskError(gone, next_step=FETCH_AGAIN)
            copy.flush()
            written = os.fstat(copy.fileno())
        verified.remember(target.name, receipt, written)


def _new_folder(wanted: Path) -> Path:
    """Make a folder of this name, or of it and a number: what lies in an older one is not overwritten."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def _belongs(path: Path, output_name: str) -> bool:
    """Whether a file is a checkpoint of this very name and not of a longer one that begins like it."""
    rest = path.stem.removeprefix(output_name)
    return rest == "" or (len(rest) == 7 and rest[0] == "-" and rest[1:].isdigit())
