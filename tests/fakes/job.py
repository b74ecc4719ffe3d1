"""A job in memory: does to the bucket what the real one does, an epoch at each tick, by its manifest.

It claims with the real job's code, through a transfer that asks the fake store.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from job.clock import Clock
from job.contract import events, keys
from job.contract.events import Event
from job.contract.manifest import MANIFEST_URL_VARIABLE, InputRole, Link, RunManifest
from job.contract.reasons import Reason
from job.contract.records import ArtefactKind, Heartbeat, Receipt, Stage
from job.contract.schema import decode
from job.errors import JobError, SupersededError
from job.patience import DeniedError, ExistsError, MissingError, Patience
from job.start import claim
from job.transfer import Bucket, Transfer
from launcher.errors import StorageError
from tests.fakes.store import FakeStore

STEPS_PER_EPOCH = 10
_ERRORS = {403: DeniedError, 404: MissingError, 412: ExistsError}


@dataclass(frozen=True)
class Vouched:
    """A checkpoint that a job completed: object and receipt are in the bucket."""

    attempt: int
    epoch: int
    sha256: str
    at: datetime


class FakeTransfer(Transfer):
    """The job's requests, answered by the fake store; asks until there is an answer, as the real job does."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store

    def get(self, link: Link, what: str) -> bytes:
        return self._ask("GET", link.url.get_secret_value(), what)

    def put(self, link: Link, what: str, data: bytes, *, only_create: bool = False) -> None:
        headers = {"If-None-Match": "*"} if only_create else {}
        self._ask("PUT", link.url.get_secret_value(), what, data, headers)

    def _ask(
        self, method: str, url: str, what: str, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        while True:
            try:
                status, body = self._store.request(method, url, content=content, headers=headers)
            except StorageError:
                continue
            if status != 200:
                raise _ERRORS[status](f"{what}: HTTP {status}")
            return body


class _Torn(Exception):
    """The job ends between two writes."""


class FakeJob:
    """Claims at its first tick, then trains an epoch a tick, then says that it has finished."""

    def __init__(
        self,
        store: FakeStore,
        pod_id: str,
        environment: Mapping[str, str],
        *,
        boot_ticks: int = 1,
        prepare_ticks: int = 0,
        fail_at_epoch: int = 0,
        fail_with: Reason = Reason.NAN_LOSS,
        hang_at_epoch: int = 0,
        corrupt_epoch: int = 0,
        message: str = "on purpose",
    ) -> None:
        self._store = store
        self._pod_id = pod_id
        self._url = environment[MANIFEST_URL_VARIABLE]
        self._boot_ticks, self._prepare_ticks = boot_ticks, prepare_ticks
        self._fail_at, self._fail_with = fail_at_epoch, fail_with
        self._hang_at, self._corrupt = hang_at_epoch, corrupt_epoch
        self._message = message
        self._lives = 0
        self.vouched: list[Vouched] = []
        self.said_last_word = False
        self.finished = False
        self.superseded = False
        """Whether it was turned away because another pod has its attempt."""
        self.tear_after: int | None = None
        """Writes that the job still makes before it ends without a word."""
        self.hangs = False
        self._begin()

    def _begin(self) -> None:
        self._lives += 1
        self._bucket: Bucket | None = None
        self.life = 0
        self.epoch = self.first_epoch = 0
        self._log: list[Event] = []
        self.over = False

    def restart(self) -> None:
        """Start the container again: what it knew is gone, what it wrote to the bucket is not."""
        self._begin()

    def tick(self) -> None:
        """Do one piece of work, as a pod does while time passes."""
        if self.over or self.hangs or (self._hang_at and self.epoch >= self._hang_at):
            return
        if self._boot_ticks > 0:
            self._boot_ticks -= 1
            return
        try:
            self._work()
        except SupersededError:
            self.over = self.superseded = True
        except (_Torn, JobError):  # over already, refused by the store
            self.over = True

    def _work(self) -> None:
        if self._bucket is None:
            self._start()
        elif self._store.at >= self.manifest.stop_at:
            self._say(events.Failed, reason=Reason.STOP_AT, message="time is up")
            self.over = True
        elif self._prepare_ticks > 0:
            self._prepare_ticks -= 1
            self._say(events.Warned, message="still fetching")
        elif self._fail_at and self.epoch >= self._fail_at:
            self._say(events.Failed, reason=self._fail_with, message=self._message)
            self.over = True
        elif self.epoch < self.manifest.recipe.max_epochs:
            self._train()
        else:
            self._say(events.Finished, epochs=self.epoch, step=self.epoch * STEPS_PER_EPOCH)
            self.over = True
        self._beat()

    def _start(self) -> None:
        """Read the manifest, claim the attempt, find out from where to go on."""
        transfer = FakeTransfer(self._store)
        link = Link.model_validate({"url": self._url, "expires_at": self._store.at})
        self.manifest = decode(RunManifest, transfer.get(link, "the manifest"))
        bucket = Bucket(transfer, self.manifest.links)
        clock = Clock(wall=lambda: self._store.at.timestamp(), ticks=lambda: 0.0)
        nonce = f"{self._pod_id}-{self._lives}"
        self.life = claim(bucket, self.manifest, self._pod_id, nonce, clock, Patience(lambda: 1.0))
        self._bucket = bucket
        resumed = self.manifest.input_for(InputRole.RESUME_STATE)
        self.epoch = self.first_epoch = max(resumed.epoch or 0 if resumed else 0, self._own_state())

    def _own_state(self) -> int:
        """Return the epoch of the newest whole state that an earlier life of this attempt left."""
        assert self._bucket is not None
        newest = 0
        for slot in keys.STATE_SLOTS:
            try:
                receipt = decode(Receipt, self._bucket.get(keys.receipt(slot)))
                whole = hashlib.sha256(self._bucket.get(slot)).hexdigest() == receipt.sha256
            except MissingError:
                continue
            newest = max(newest, receipt.epoch if whole else 0)
        return newest

    def _train(self) -> None:
        total = self.manifest.recipe.max_epochs * STEPS_PER_EPOCH
        if self.epoch == self.first_epoch:
            self._say(
                events.TrainingStarted,
                total_steps=total,
                steps_per_epoch=STEPS_PER_EPOCH,
                total_epochs=self.manifest.recipe.max_epochs,
                first_step=self.epoch * STEPS_PER_EPOCH,
            )
        self.epoch += 1
        self._say(events.Progress, step=self.epoch * STEPS_PER_EPOCH, total_steps=total, epoch=self.epoch)
        if self.epoch in self.manifest.recipe.saved_epochs:
            name = self.manifest.recipe.checkpoint_name(self.epoch)
            data = f"checkpoint {name} of {self.manifest.run_id}".encode()
            receipt = self._keep(ArtefactKind.CHECKPOINT, keys.checkpoint(name), name, data)
            self.vouched.append(Vouched(receipt.attempt, receipt.epoch, receipt.sha256, receipt.at))
        slot = keys.STATE_SLOTS[self.epoch % 2]
        self._keep(ArtefactKind.STATE, slot, slot.split("/")[1], f"state {self.epoch}".encode())

    def _keep(self, kind: ArtefactKind, key: str, name: str, data: bytes) -> Receipt:
        receipt = Receipt(
            **self._head(),
            kind=kind,
            key=key,
            name=name,
            epoch=self.epoch,
            step=self.epoch * STEPS_PER_EPOCH,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        if kind is ArtefactKind.CHECKPOINT and self.epoch == self._corrupt:
            data = data[::-1]
        self._put(key, data)
        self._put(keys.receipt(key), receipt.encode())
        return receipt

    def _beat(self) -> None:
        stage = Stage.PREPARING if self._prepare_ticks else Stage.TRAINING
        self._put(keys.heartbeat(self.life), Heartbeat(**self._head(), stage=stage).encode())

    def _say(self, kind: type[Event], **fields: Any) -> None:
        self._log.append(kind(**self._head(), seq=len(self._log) + 1, **fields))
        self._put(keys.events(self.life), b"".join(event.encode() + b"\n" for event in self._log))
        self.said_last_word = self._log[-1].terminal
        self.finished = kind is events.Finished

    def _put(self, key: str, data: bytes) -> None:
        if self.tear_after is not None:
            self.tear_after -= 1
            if self.tear_after < 0:
                raise _Torn
        assert self._bucket is not None
        self._bucket.put(key, data)

    def _head(self) -> dict[str, Any]:
        return {
            "run_id": self.manifest.run_id,
            "attempt": self.manifest.attempt,
            "life": self.life,
            "at": self._store.at,
        }
