"""Finds the checkpoints a trainer wrote, checks them, and has them vouched for: each exactly once.

Knows the recipe's names, the tensors' look, and whoever uploads. A trainer says "saved" before or after it
wrote; only a file's own size tells that it is complete.
"""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from job.contract import keys
from job.contract.events import CheckpointUploaded, Warned
from job.contract.reasons import Reason
from job.contract.recipe import Recipe
from job.contract.records import ArtefactKind, Receipt
from job.contract.tensors import MalformedError, inspect, is_complete
from job.errors import JobError
from job.patience import Patience
from job.uploads import Artefact, Vouching, Worker

LOOK_SECONDS = 0.1
LATE_SECONDS = 2
"""How long a file may still be incomplete once its trainer is dead: what it wrote is visible by then."""


class Checkpoints:
    """The attempt's checkpoints. `needed` are the epochs that this attempt must bring home."""

    def __init__(
        self,
        recipe: Recipe,
        needed: Iterable[int],
        *,
        vouching: Vouching,
        worker: Worker,
        patience: Patience,
        say: Callable[..., object],
        known: Iterable[int] = (),
    ) -> None:
        self.needed = frozenset(needed)
        self.files: dict[int, Path] = {}
        """Epoch → complete, checked file on this disk."""
        self.steps: dict[int, int] = {}
        """Epoch → optimizer steps done when it was written."""
        self._recipe = recipe
        self._vouching = vouching
        self._worker = worker
        self._patience = patience
        self._say = say
        self._taken = set(known)
        self._vouched = set(known)
        self._writer_ended = threading.Event()

    def take(self, path: Path, epoch: int, step: int) -> None:
        """Have the checkpoint of `epoch` uploaded in the background, once it is complete."""
        if epoch not in self.needed or epoch in self._taken:
            return
        self._taken.add(epoch)
        self._worker.submit(lambda: self._bring_home(path, epoch, step))

    def take_rest(self, output_dir: Path, *, steps_per_epoch: int) -> None:
        """The trainer has ended: take expected files that it did not report.

        The last epoch counts without its number too, as sd-scripts names it.
        """
        self._writer_ended.set()
        for epoch in sorted(self.needed - self._taken):
            names = [self._recipe.checkpoint_name(epoch)]
            if epoch == self._recipe.max_epochs:
                names.append(f"{self._recipe.output_name}.safetensors")
            for path in (output_dir / name for name in names):
                if path.is_file() and _whole(path):
                    self.take(path, epoch, epoch * steps_per_epoch)

    def settled(self, epoch: int) -> bool:
        """Whether every needed checkpoint up to `epoch` is in the bucket: only then may a state of it be
        resumed.
        """
        return all(needed in self._vouched for needed in self.needed if needed <= epoch)

    @property
    def unseen(self) -> list[str]:
        """Names of needed checkpoints that the trainer never wrote."""
        return [self._recipe.checkpoint_name(epoch) for epoch in sorted(self.needed - self._taken)]

    @property
    def missing(self) -> list[str]:
        """Names of needed checkpoints that nobody vouched for."""
        return [self._recipe.checkpoint_name(epoch) for epoch in sorted(self.needed - self._vouched)]

    def _bring_home(self, path: Path, epoch: int, step: int) -> None:
        name = self._recipe.checkpoint_name(epoch)
        if not self._wait_until_complete(path):
            self._say(Warned, message=f"{path.name} was never completed by the trainer and is left out")
            return
        self._check(path, name)
        artefact = Artefact(ArtefactKind.CHECKPOINT, keys.checkpoint(name), name, epoch, step, path)
        receipt = self._vouching.vouch(artefact, self._patience)
        self.files[epoch], self.steps[epoch] = path, step
        self._vouched.add(epoch)
        self._say(
            CheckpointUploaded, name=name, epoch=epoch, step=step, bytes=receipt.bytes, sha256=receipt.sha256
        )

    def _wait_until_complete(self, path: Path) -> bool:
        """Wait for the announced size; two looks apart, since a writer may set the size before the
        content.
        """
        give_up_at: float | None = None
        before: tuple[int, int] | None = None
        while not self._patience.over:
            try:
                status = path.stat()
                now = (status.st_size, status.st_mtime_ns)
                if is_complete(path) and now == before:
                    return True
                before = now
            except (FileNotFoundError, MalformedError):
                before = None
            if self._writer_ended.is_set():
                give_up_at = give_up_at or time.monotonic() + LATE_SECONDS
                if time.monotonic() > give_up_at or not path.exists():
                    return False
            self._patience.sleep(LOOK_SECONDS)
        return False

    def _check(self, path: Path, name: str) -> None:
        """Refuse what cannot be used. Raises JobError; a LoRA without effect is only told of."""
        try:
            findings = inspect(path)
        except MalformedError as error:
            raise JobError(
                Reason.TRAINER_CRASHED, f"the trainer wrote a damaged checkpoint: {error}"
            ) from None
        if findings.not_finite:
            raise JobError(
                Reason.NAN_LOSS,
                f"{name} holds values that are not finite in {len(findings.not_finite)} tensors, "
                f"the first of them {findings.not_finite[0]}: training diverged",
            )
        if findings.ranks != {self._recipe.lora_dim}:
            found = ", ".join(map(str, sorted(findings.ranks))) or "none"
            raise JobError(
                Reason.TRAINER_CRASHED,
                f"{name} has rank {found} where the recipe asks for {self._recipe.lora_dim}",
            )
        if findings.untrained:
            self._say(Warned, message=f"{name} changes nothing: all its lora_up weights are zero")


def vouched_epochs(recipe: Recipe, receipts: dict[str, Receipt]) -> set[int]:
    """Return the epochs whose checkpoint has a receipt."""
    return {
        epoch for epoch in recipe.saved_epochs if keys.checkpoint(recipe.checkpoint_name(epoch)) in receipts
    }


def _whole(path: Path) -> bool:
    try:
        return is_complete(path)
    except MalformedError:
        return False
