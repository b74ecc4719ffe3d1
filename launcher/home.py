"""Where results lie on this machine. The only place that spells a path below `models/` or the workspace.

models/<output_name>-000002.safetensors   every checkpoint, equal to its receipt
models/<output_name>.safetensors          the selected one
models/<output_name>/samples/epoch-000002 its images; scores/ what they measure; run.json the record
models/<output_name>/earlier/<time>       what an earlier run of the same name had left
"""

import shutil
import zipfile
from datetime import datetime
from pathlib import Path

from job.contract.records import ArtefactKind, Receipt
from launcher.errors import IntegrityError, StorageError
from launcher.files import write_atomically
from launcher.model import RunRecord
from launcher.ports import Store
from launcher.pullback import PullBack

SAMPLE_BYTES_MAX = 64 * 1024**2
"""No sample image is larger once unpacked."""


class Home:
    """The user's folders."""

    def __init__(self, models_dir: Path, workspace: Path) -> None:
        self.models_dir = models_dir.resolve()
        self.workspace = workspace.resolve()

    def results(self, output_name: str) -> Path:
        """Return the folder of a run's results beside its checkpoints."""
        return self.models_dir / output_name

    def selected(self, output_name: str) -> Path:
        """Return the path of the selected checkpoint."""
        return self.models_dir / f"{output_name}.safetensors"

    def scratch(self) -> Path:
        """Return a folder for passing files, made if it is not there."""
        folder = self.workspace / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def set_aside(self, output_name: str, now: datetime) -> Path | None:
        """Move what an earlier run of this name left out of the way; return where to, None for nothing."""
        results = self.results(output_name)
        old = [
            path
            for path in self.models_dir.glob(f"{output_name}*.safetensors")
            if _belongs(path, output_name)
        ]
        old += [path for path in results.glob("*") if path.name != "earlier"] if results.is_dir() else []
        if not old:
            return None
        target = results / "earlier" / f"{now:%Y%m%d-%H%M%S}"
        target.mkdir(parents=True, exist_ok=True)
        for path in old:
            shutil.move(path, target / path.name)
        return target

    def fetch(self, store: Store, key: str, receipt: Receipt, record: RunRecord) -> Path:
        """Bring an artefact home, verified, and return its path.

        Raises IntegrityError when it is not what its receipt says, StorageError when it cannot be had,
        LocalDiskError when it cannot be kept.
        """
        results = self.results(record.spec.output_name)
        match receipt.kind:
            case ArtefactKind.CHECKPOINT:
                return PullBack(store, self.models_dir).pull(key, receipt)
            case ArtefactKind.SAMPLES:
                path = PullBack(store, results / "samples").pull(key, receipt)
                self._unpack_samples(path, record)
                return path
            case _:
                return PullBack(store, results / "scores").pull(key, receipt)

    def finish(self, record: RunRecord) -> None:
        """Promote the selected checkpoint and write the record beside the results. May be done again."""
        results = self.results(record.spec.output_name)
        results.mkdir(parents=True, exist_ok=True)
        if record.selection is not None:
            chosen = next(
                item for item in record.checkpoints() if item.receipt.epoch == record.selection.epoch
            )
            self._promote(self.models_dir / chosen.receipt.name, self.selected(record.spec.output_name))
        write_atomically(results / "run.json", record.model_dump_json(indent=2).encode())

    def _promote(self, source: Path, target: Path) -> None:
        temporary = target.with_name(f".{target.name}.part")
        try:
            shutil.copyfile(source, temporary)
            temporary.replace(target)
        except OSError as error:
            raise StorageError(
                f"{target} cannot be written: {error.strerror}", next_step=f"copy {source} there yourself"
            ) from error

    def _unpack_samples(self, path: Path, record: RunRecord) -> None:
        """Lay the images beside their zip. Names come from the plan, never from the zip."""
        plan = record.spec.evaluation
        wanted = {f"{prompt.name}.png" for prompt in plan.prompts} if plan else set()
        folder = path.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if entry.filename in wanted and entry.file_size <= SAMPLE_BYTES_MAX:
                        write_atomically(folder / entry.filename, archive.read(entry))
        except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as error:
            raise IntegrityError(f"{path.name} cannot be unpacked: {error}") from error


def _belongs(path: Path, output_name: str) -> bool:
    """Whether a file is a checkpoint of this very name and not of a longer one that begins like it."""
    rest = path.stem.removeprefix(output_name)
    return rest == "" or (len(rest) == 7 and rest[0] == "-" and rest[1:].isdigit())
