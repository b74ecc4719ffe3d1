"""Brings artefacts to the bucket and vouches for them: the object first, its receipt after it.

Knows the bucket and receipts. Also the one kind of background worker that the job uses for it.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from job.contract import keys
from job.contract.manifest import RunManifest
from job.contract.records import ArtefactKind, Receipt
from job.contract.schema import ContractError, decode
from job.files import digest
from job.patience import DeniedError, MissingError, Patience, persist
from job.transfer import Bucket


@dataclass(frozen=True)
class Artefact:
    """A complete file that is to be kept at `key`, relative to the attempt's prefix."""

    kind: ArtefactKind
    key: str
    name: str
    epoch: int
    step: int
    path: Path


class Vouching:
    """Uploads artefacts and writes their receipts; reads the receipts of earlier lives."""

    def __init__(self, bucket: Bucket, manifest: RunManifest, life: int, now: Callable[[], datetime]) -> None:
        self._bucket = bucket
        self._manifest = manifest
        self._life = life
        self._now = now

    def vouch(self, artefact: Artefact, patience: Patience) -> Receipt:
        """Upload, then write the receipt: a receipt says that the object is complete, so it comes last."""
        content = digest(artefact.path)
        persist(lambda: self._bucket.put_file(artefact.key, artefact.path, content), patience)
        receipt = Receipt(
            run_id=self._manifest.run_id,
            attempt=self._manifest.attempt,
            life=self._life,
            at=self._now(),
            kind=artefact.kind,
            key=artefact.key,
            name=artefact.name,
            epoch=artefact.epoch,
            step=artefact.step,
            bytes=content.bytes,
            sha256=content.sha256,
        )
        persist(lambda: self._bucket.put(keys.receipt(artefact.key), receipt.encode()), patience)
        return receipt

    def receipts(self, patience: Patience) -> dict[str, Receipt]:
        """Return what earlier lives of this attempt vouched for, by key. The first life has none."""
        if self._life == 1:
            return {}
        found = {}
        for key in self._manifest.artefacts:
            try:
                data = persist(
                    lambda key=key: self._bucket.get(keys.receipt(key)),  # type: ignore[misc]
                    patience,
                    refusals=1,
                )
                receipt = decode(Receipt, data)
            except (MissingError, DeniedError, ContractError):
                # Without the right to list, S3 answers 403 for what does not exist.
                continue
            if receipt.key == key:
                found[key] = receipt
        return found


class Worker:
    """Does one thing after another in a thread of its own. The first failure ends it and is kept for whoever
    asks.
    """

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()
        self._waiting = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Queue a task."""
        with self._lock:
            self._waiting += 1
            self._idle.clear()
        self._queue.put(task)

    def check(self) -> None:
        """Raise the failure that ended the worker, if any."""
        if self._failure is not None:
            raise self._failure

    def drain(self, patience: Patience) -> bool:
        """Wait until nothing is queued; return False when patience ended first. Raises the worker's
        failure.
        """
        while not self._idle.wait(0.05) and not patience.over:
            self.check()
        self.check()
        return self._idle.is_set()

    def close(self) -> None:
        """Take nothing more; what runs is left to end by itself."""
        self._queue.put(None)

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                if self._failure is None:
                    task()
            except Exception as error:  # noqa: BLE001 - raised again where the work is waited for
                self._failure = error
            with self._lock:
                self._waiting -= 1
                if not self._waiting:
                    self._idle.set()
