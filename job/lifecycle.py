"""The job from manifest to last word: claim → prepare → train → evaluate → finish, readable in this order.

Knows every stage and none of their details. Whatever happens after the claim, what is complete goes to the
bucket, then one terminal event follows, and nothing follows that.
"""

import errno
import threading
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from job import environment, start
from job.checkpoints import Checkpoints, vouched_epochs
from job.contract import keys
from job.contract.events import Booted, Claimed, Failed, Finished, Hinted, Warned
from job.contract.manifest import InputRole, RunManifest
from job.contract.reasons import Reason
from job.contract.records import ArtefactKind, Receipt, Stage
from job.desk import Desk, World, open_desk
from job.errors import JobError, TerminatedError
from job.evaluate.measure import Measuring
from job.exits import ExitCode, exit_code
from job.patience import Patience, TransferError
from job.prepare import Workplace, prepare, tell
from job.provider import Provider
from job.redaction import Redactor
from job.state import StateKeeper, candidates, restore
from job.trainers.base import ResumeFrom, Trainer, TrainingTask
from job.training import Trained, Training
from job.transfer import Bucket, fetch_verified, job_version


def run(world: World) -> ExitCode:
    """Do the work of this pod. Raises the JobErrors that come before the attempt is claimed."""
    patience = Patience(lambda: world.watchdog.seconds_left, world.stop)
    manifest = start.read_manifest(world.environment, world.transfer, world.clock, patience)
    world.redact.learn_urls(_urls(manifest))
    world.watchdog.no_later_than(manifest.hard_deadline)
    world.watchdog.at_stop(
        manifest.stop_at,
        lambda: world.stop.request(JobError(Reason.STOP_AT, "stop_at came before the work was done")),
    )
    world.stop.check()  # a life that is over already claims nothing
    bucket, nonce = Bucket(world.transfer, manifest.links), uuid.uuid4().hex
    life = start.claim(bucket, manifest, world.environment.pod_id, nonce, world.clock, patience)
    with open_desk(world, manifest, bucket, life) as desk:
        desk.say(
            Booted,
            pod_id=world.environment.pod_id,
            version=job_version(),
            hints=environment.describe_machine(),
        )
        desk.say(Claimed, nonce=nonce)
        if world.provider is not None:
            _look_around(world.provider, desk)
        attempt = _Attempt(world, desk)
        try:
            trained = attempt.work()
        except Exception as error:  # noqa: BLE001 - whatever it is, uploads and the last word come first
            return attempt.fail(_as_job_error(error, world.redact))
        return attempt.finish(trained)


class _Attempt:
    """The stages after the claim, and what they share."""

    def __init__(self, world: World, desk: Desk) -> None:
        self._world = world
        self._desk = desk
        self._states: StateKeeper | None = None

    def work(self) -> Trained:
        """Prepare, train, evaluate; everything durable is in the bucket when this returns."""
        desk, manifest = self._desk, self._desk.manifest
        receipts = desk.vouching.receipts(desk.working_patience)
        known = vouched_epochs(manifest.recipe, receipts)
        given = manifest.inputs_for(InputRole.RESUME_STATE)
        home = max((item.epoch or 0 for item in given), default=0)
        # Who wrote a resume state had brought home every checkpoint up to it.
        needed = {epoch for epoch in manifest.recipe.saved_epochs if epoch > home}
        checkpoints = Checkpoints(
            manifest.recipe,
            needed,
            vouching=desk.vouching,
            worker=desk.uploads,
            patience=desk.patience,
            say=desk.say,
            known=known,
        )
        trainer = self._trainer()
        place = prepare(desk, checkpoints=len(needed - known))
        resume = None
        if checkpoints.unseen:
            resume = restore(
                candidates(receipts, desk.bucket, given, usable=checkpoints.settled),
                desk.transfer,
                desk.folder / "resume",
                desk.working_patience,
                warn=self._warn,
            )
        desk.stop.check()
        tell(desk, place, resume)
        trained = Trained(epoch=manifest.recipe.max_epochs)
        if checkpoints.unseen:
            trained = self._train(trainer, place, resume, checkpoints, receipts)
        if checkpoints.unseen:
            raise JobError(
                Reason.TRAINER_CRASHED,
                f"the trainer ended well but never wrote {', '.join(checkpoints.unseen)}",
            )
        self._evaluate(place, checkpoints, receipts)
        if not desk.uploads.drain(desk.patience):
            raise JobError(Reason.STORAGE_FAILED, "uploads were not done before the hard deadline")
        if checkpoints.missing:
            raise JobError(
                Reason.TRAINER_CRASHED, f"no whole file of {', '.join(checkpoints.missing)} was written"
            )
        return trained

    def finish(self, trained: Trained) -> ExitCode:
        """Say that all is done, and be sure that it was heard."""
        desk = self._desk
        desk.status.stage = Stage.FINISHING
        desk.say(Finished, epochs=desk.manifest.recipe.max_epochs, step=trained.step)
        return ExitCode.FINISHED if desk.outbox.flush(desk.last_patience) else ExitCode.MACHINE_FAILED

    def fail(self, error: JobError) -> ExitCode:
        """Bring home what is complete, then say why the attempt is over.

        After SIGTERM that is no last word: the pod may start this container again, and then work goes on.
        """
        desk = self._desk
        desk.status.stage = Stage.FINISHING
        with suppress(Exception):  # a failed upload is the reason already, or comes second to it
            desk.uploads.drain(desk.patience)
        if self._states is not None:
            self._states.drain(desk.patience)
        if isinstance(error, TerminatedError):
            desk.say(Warned, message=error.message)
            desk.outbox.flush(desk.last_patience)
            return ExitCode.TERMINATED
        desk.say(Failed, reason=error.reason, message=error.message)
        told = desk.outbox.flush(desk.last_patience)
        return exit_code(error.reason) if told else ExitCode.MACHINE_FAILED

    def _train(
        self,
        trainer: Trainer,
        place: Workplace,
        resume: ResumeFrom | None,
        checkpoints: Checkpoints,
        receipts: Mapping[str, Receipt],
    ) -> Trained:
        desk, manifest = self._desk, self._desk.manifest
        desk.status.stage = Stage.TRAINING
        slots = [receipts[slot] for slot in keys.STATE_SLOTS if slot in receipts]
        self._states = StateKeeper(
            desk.vouching,
            desk.folder,
            desk.patience,
            settled=checkpoints.settled,
            newest=max(slots, key=lambda receipt: (receipt.step, receipt.at), default=None),
            warn=self._warn,
        )
        task = TrainingTask(
            recipe=manifest.recipe,
            data_dir=place.data_dir,
            base_model=place.base_model,
            output_dir=place.output_dir,
            init_weights=place.init_weights,
            resume=resume,
            state_every_seconds=manifest.timing.state_every_seconds,
        )
        training = Training(desk, task, checkpoints, self._states, checkpoint_bytes=place.checkpoint_bytes)
        trained = training.run(trainer)
        self._states.close()
        return trained

    def _evaluate(self, place: Workplace, checkpoints: Checkpoints, receipts: Mapping[str, Receipt]) -> None:
        desk, drawer = self._desk, self._world.drawer
        if desk.manifest.evaluation is None:
            return
        desk.status.stage = Stage.EVALUATING
        # A checkpoint is drawn from once its file is known to be complete and sound.
        if not desk.uploads.drain(desk.working_patience):
            desk.stop.check()
        made = {**place.earlier, **checkpoints.files}
        made |= self._fetch_own(receipts, have=made)
        loras: dict[int, Path | None] = {keys.START_EPOCH: place.init_weights, **made}
        steps = {item.epoch: item.step for item in desk.manifest.inputs if item.epoch and item.step}
        steps |= {r.epoch: r.step for r in receipts.values() if r.kind is ArtefactKind.CHECKPOINT}
        Measuring(
            desk,
            drawer,
            base_model=place.base_model,
            ruler=place.ruler,
            receipts=receipts,
            steps=steps | checkpoints.steps,
        ).run(loras)

    def _fetch_own(self, receipts: Mapping[str, Receipt], have: Mapping[int, object]) -> dict[int, Path]:
        """Fetch the checkpoints that earlier lives of this attempt vouched for and that are still to be
        drawn.
        """
        desk, recipe = self._desk, self._desk.manifest.recipe
        found: dict[int, Path] = {}
        for epoch in recipe.saved_epochs:
            receipt = receipts.get(keys.checkpoint(recipe.checkpoint_name(epoch)))
            if receipt is None or epoch in have:
                continue
            path = desk.folder / receipt.name
            with suppress(TransferError):
                if fetch_verified(
                    desk.transfer,
                    desk.bucket.link(receipt.key),
                    receipt.key,
                    path,
                    size=receipt.bytes,
                    sha256=receipt.sha256,
                    patience=desk.working_patience,
                ):
                    found[epoch] = path
        return found

    def _trainer(self) -> Trainer:
        name = self._desk.manifest.trainer
        if name not in self._world.trainers:
            raise JobError(Reason.BAD_RECIPE, f"this image has no trainer {name}")
        return self._world.trainers[name]

    def _warn(self, message: str) -> None:
        self._desk.say(Warned, message=message)


def _look_around(provider: Provider, desk: Desk) -> None:
    """Find out in the background what the pod's own key can see, and tell it as a hint."""

    def look() -> None:
        with suppress(Exception):  # a hint that cannot be told is none that is missed
            desk.say(Hinted, hints=provider.look())

    threading.Thread(target=look, name="look around", daemon=True).start()


def _as_job_error(error: Exception, redact: Redactor) -> JobError:
    """Give every error a reason. What nobody foresaw is the job's own fault and keeps the place where it
    arose.
    """
    if isinstance(error, JobError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JobError(Reason.DISK_FULL, "the disk is full")
    where = traceback.extract_tb(error.__traceback__)[-1]
    return JobError(
        Reason.TRAINER_CRASHED,
        redact(
            f"internal error in the job: {type(error).__name__}: {error} ({where.name}, line {where.lineno})"
        ),
    )


def _urls(manifest: RunManifest) -> Iterator[str]:
    for group in (manifest.links.get, manifest.links.put, manifest.links.create):
        yield from (link.url.get_secret_value() for link in group.values())
    yield from (item.link.url.get_secret_value() for item in manifest.inputs)
