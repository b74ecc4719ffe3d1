"""What retrain does to carry files, as a run does it: packing, hashing, `upload_all`, `fetch_all`."""

import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from job.contract import keys
from job.contract.manifest import EvaluationPlan, SamplePrompt
from job.contract.recipe import Recipe, TrainerName
from job.contract.records import ArtefactKind, Receipt
from launcher.cli.wiring import PULLS_AT_ONCE
from launcher.dataset.packing import pack
from launcher.dataset.reading import open_dataset
from launcher.model import Budget, RunRecord, RunSpec
from launcher.results.fetching import fetch_all
from launcher.results.home import Home
from launcher.storage.s3 import S3Store
from launcher.storage.s3_config import S3Config

ZIPS = 10
"""Into so many the images are packed that come home: one for each epoch."""
Pull = Callable[[Path], None]
"""Brings what was put into the bucket home, to a folder."""


class Ours:
    """The launcher's side of a bucket."""

    def __init__(self, config: S3Config) -> None:
        self._store = S3Store(config)
        self._runs = 0

    def upload_each(self, folder: Path, prefix: str) -> None:
        """Stage every file of a folder as an input of its own: hash all, then upload."""
        paths = sorted(folder.iterdir())
        for path in paths:
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")
        self._store.upload_all({f"{prefix}/{path.name}": path for path in paths})

    def upload_packed(self, folder: Path, prefix: str) -> None:
        """Stage a folder of images and captions as a data set: packed into one zip, hashed, uploaded."""
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, open_dataset(folder) as dataset:
            packed = pack(dataset, Path(scratch) / "dataset.zip")
            self._store.upload(packed.path, f"{prefix}/dataset.zip")

    def vouch_each(self, folder: Path) -> Pull:
        """Put every file into the bucket as a checkpoint of its own, as a job does."""
        paths = sorted(folder.iterdir())
        record = self._record(epochs=len(paths))
        receipts = [
            self._vouched(record, path, ArtefactKind.CHECKPOINT, epoch)
            for epoch, path in enumerate(paths, start=1)
        ]
        return self._pull(record, receipts)

    def vouch_packed(self, folder: Path) -> Pull:
        """Put the images into the bucket as the zips of several epochs' samples, as a job does."""
        images = sorted(folder.glob("*.png"))
        size = -(-len(images) // ZIPS)
        record = self._record(epochs=ZIPS, prompts=[f"{number:05d}" for number in range(size)])
        receipts = []
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            for epoch in range(1, ZIPS + 1):
                path = Path(scratch) / f"{epoch}.zip"
                with zipfile.ZipFile(path, "w") as archive:
                    for number, image in enumerate(images[(epoch - 1) * size : epoch * size]):
                        archive.write(image, f"{number:05d}.png")
                receipts.append(self._vouched(record, path, ArtefactKind.SAMPLES, epoch))
        return self._pull(record, receipts)

    def _pull(self, record: RunRecord, receipts: Sequence[Receipt]) -> Pull:
        def pull(folder: Path) -> None:
            home = Home(folder, folder / ".retrain")
            for batch in fetch_all(
                receipts,
                record,
                self._store,
                home,
                at_once=PULLS_AT_ONCE,
                on_bytes=lambda _name, _count: None,
            ):
                for fetched in batch:
                    if fetched.error is not None:
                        raise fetched.error

        return pull

    def _vouched(self, record: RunRecord, path: Path, kind: ArtefactKind, epoch: int) -> Receipt:
        key = f"{kind.value}/{epoch}"
        self._store.upload(path, keys.attempt_prefix(record.run_id, 1) + key)
        return Receipt(
            run_id=record.run_id,
            attempt=1,
            life=1,
            at=datetime.now(UTC),
            kind=kind,
            key=key,
            name=path.name,
            epoch=epoch,
            step=epoch,
            bytes=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )

    def _record(self, *, epochs: int, prompts: Sequence[str] = ()) -> RunRecord:
        self._runs += 1
        plan = EvaluationPlan(prompts=tuple(SamplePrompt(name=name, prompt=name, seed=1) for name in prompts))
        spec = RunSpec(
            output_name="bench",
            provider="process",
            trainer=TrainerName.DIFFUSERS,
            recipe=Recipe(output_name="bench", max_epochs=epochs, save_every=1),
            inputs=(),
            evaluation=plan,
            budget=Budget(cap_dollars=1, max_seconds=3600),
        )
        return RunRecord(run_id=f"bench-{self._runs}", created_at=datetime.now(UTC), spec=spec)
