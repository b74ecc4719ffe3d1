"""A job in memory: does to the bucket what the real one does, an epoch at each tick, by its manifest."""

import hashlib
from collections.abc import Mapping
from typing import Any

from job.contract import events, keys
from job.contract.events import Event
from job.contract.manifest import MANIFEST_URL_VARIABLE, InputRole, RunManifest
from job.contract.reasons import Reason
from job.contract.records import ArtefactKind, Claim, Heartbeat, Receipt, Stage
from job.contract.schema import decode
from launcher.errors import StorageError
from tests.fakes.store import FakeStore

STEPS_PER_EPOCH = 10


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
        status, body = self._request("GET", environment[MANIFEST_URL_VARIABLE])
        assert status == 200, body
        self.manifest = decode(RunManifest, body)
        self._boot_ticks, self._prepare_ticks = boot_ticks, prepare_ticks
        self._fail_at, self._fail_with = fail_at_epoch, fail_with
        self._hang_at, self._corrupt = hang_at_epoch, corrupt_epoch
        self._message = message
        resumed = self.manifest.input_for(InputRole.RESUME_STATE)
        self.epoch = resumed.epoch or 0 if resumed else 0
        self.first_epoch = self.epoch
        self._log: list[Event] = []
        self.over = False
        self._claimed = False

    def tick(self) -> None:
        """Do one piece of work, as a pod does while time passes."""
        if self.over or (self._hang_at and self.epoch >= self._hang_at):
            return
        if self._boot_ticks > 0:
            self._boot_ticks -= 1
            return
        if self._store.at >= self.manifest.stop_at:
            self._say(events.Failed, reason=Reason.STOP_AT, message="time is up")
            self.over = True
        elif not self._claimed:
            self._claim()
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

    def _claim(self) -> None:
        claim = Claim(**self._head(), pod_id=self._pod_id, nonce=self._pod_id)
        link = self.manifest.links.create[keys.claim(1)]
        status, _ = self._request("PUT", link.url.get_secret_value(), claim.encode(), {"If-None-Match": "*"})
        if status != 200:
            self.over = True  # somebody else's: superseded
            return
        self._claimed = True

    def _train(self) -> None:
        if self.epoch == self.first_epoch:
            self._start()
        self.epoch += 1
        step = self.epoch * STEPS_PER_EPOCH
        recipe = self.manifest.recipe
        self._say(
            events.Progress, step=step, total_steps=recipe.max_epochs * STEPS_PER_EPOCH, epoch=self.epoch
        )
        if self.epoch in recipe.saved_epochs:
            name = recipe.checkpoint_name(self.epoch)
            data = f"checkpoint {name} of {self.manifest.run_id}".encode()
            self._keep(ArtefactKind.CHECKPOINT, keys.checkpoint(name), name, data)
        slot = keys.STATE_SLOTS[self.epoch % 2]
        self._keep(ArtefactKind.STATE, slot, slot.split("/")[1], f"state {self.epoch}".encode())

    def _start(self) -> None:
        total = self.manifest.recipe.max_epochs * STEPS_PER_EPOCH
        self._say(
            events.TrainingStarted,
            total_steps=total,
            steps_per_epoch=STEPS_PER_EPOCH,
            total_epochs=self.manifest.recipe.max_epochs,
            first_step=self.epoch * STEPS_PER_EPOCH,
        )

    def _keep(self, kind: ArtefactKind, key: str, name: str, data: bytes) -> None:
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

    def _beat(self) -> None:
        if self._claimed:
            stage = Stage.PREPARING if self._prepare_ticks else Stage.TRAINING
            self._put(keys.heartbeat(1), Heartbeat(**self._head(), stage=stage).encode())

    def _say(self, kind: type[Event], **fields: Any) -> None:
        self._log.append(kind(**self._head(), seq=len(self._log) + 1, **fields))
        self._put(keys.events(1), b"".join(event.encode() + b"\n" for event in self._log))

    def _put(self, key: str, data: bytes) -> None:
        status, _ = self._request("PUT", self.manifest.links.put[key].url.get_secret_value(), data)
        assert status == 200, key

    def _request(
        self, method: str, url: str, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Ask until there is an answer, as the real job does."""
        while True:
            try:
                return self._store.request(method, url, content=content, headers=headers)
            except StorageError:
                continue

    def _head(self) -> dict[str, Any]:
        return {
            "run_id": self.manifest.run_id,
            "attempt": self.manifest.attempt,
            "life": 1,
            "at": self._store.at,
        }
