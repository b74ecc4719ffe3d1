"""What every stage of the lifecycle works with: the world before the claim, the desk after it.

Knows its parts and how long each may try; knows no stage.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from job.clock import Clock
from job.contract import keys
from job.contract.events import Event
from job.contract.manifest import RunManifest
from job.contract.reasons import Reason
from job.contract.recipe import TrainerName
from job.contract.records import Heartbeat
from job.environment import Environment
from job.errors import TerminatedError
from job.evaluate.drawing import DrawTask
from job.files import free_bytes, fresh_folder
from job.outbox import Outbox
from job.patience import Patience, Stop
from job.provider import Provider
from job.redaction import Redactor
from job.supervise import Children
from job.telemetry import LOG_SECONDS, LogTail, Periodic, Status
from job.trainers.base import Command, Trainer
from job.transfer import Bucket, Transfer
from job.uploads import Vouching, Worker
from job.watchdog import Watchdog

UPLOADS_END_SECONDS = 10
"""Before the hard deadline: uploads give up, so that the reason can still be told."""
LAST_WORD_SECONDS = 3
"""Before the hard deadline: telling gives up too."""
TERMINATED_CHILD_SHARE = 0.25
"""Of the grace after SIGTERM that a child gets; the rest is for uploads."""
TERMINATED_UPLOADS_SHARE = 0.8


class Drawer(Protocol):
    """A way to draw; `job.evaluate.drawing.draw_command` is the real one."""

    def __call__(self, task: DrawTask, task_file: Path, /) -> Command:
        """Return the child process that draws `task` and says so in the lines that `drawing.parse` reads."""
        ...


@dataclass
class World:
    """What the composition root made: everything that exists before the manifest is read."""

    environment: Environment
    clock: Clock
    watchdog: Watchdog
    stop: Stop
    children: Children
    redact: Redactor
    transfer: Transfer
    trainers: Mapping[TrainerName, Trainer]
    drawer: Drawer
    provider: Provider | None = None
    """Where this pod can ask about itself, None where it cannot."""
    terminated_at: float | None = None
    """Monotonic seconds of the SIGTERM that came."""

    def terminate(self) -> None:
        """Take a SIGTERM: stop, and be quick about it."""
        self.terminated_at = self.terminated_at or time.monotonic()
        self.stop.request(TerminatedError(Reason.POD_GONE, "the machine was asked to go (SIGTERM)"))


@dataclass(frozen=True)
class Desk:
    """The attempt at hand."""

    manifest: RunManifest
    life: int
    folder: Path
    """Of this life alone; empty at its start."""
    clock: Clock
    stop: Stop
    patience: Patience
    """Of uploads: they go on after `stop_at`, until shortly before the hard deadline."""
    last_patience: Patience
    """Of the last word, which needs a little longer than the uploads."""
    grace: Callable[[], float]
    """Seconds that a child is given after SIGTERM."""
    transfer: Transfer
    bucket: Bucket
    vouching: Vouching
    uploads: Worker
    outbox: Outbox
    log: LogTail
    status: Status
    children: Children
    redact: Redactor

    @property
    def working_patience(self) -> Patience:
        """Of work before and beside training: ends as soon as a stop is asked for."""
        return Patience(lambda: self.patience.seconds_left, self.stop)

    def say(self, kind: type[Event], **fields: Any) -> None:
        """Record an event."""
        self.outbox.add(kind, **fields)


@contextmanager
def open_desk(world: World, manifest: RunManifest, bucket: Bucket, life: int) -> Iterator[Desk]:
    """Set up the desk with its threads; send the last signs of life and clear the disk at the end."""
    ours = world.environment.scratch / f"{manifest.run_id}-{manifest.attempt}"
    folder = fresh_folder(ours) / f"life-{life}"
    folder.mkdir()
    timing, watchdog = manifest.timing, world.watchdog

    def left(before_deadline: float, share: float) -> float:
        """Seconds until shortly before the deadline, and after SIGTERM a share of the grace."""
        seconds = watchdog.seconds_left - before_deadline
        if world.terminated_at is None:
            return seconds
        return min(seconds, world.terminated_at + share * timing.grace_seconds - time.monotonic())

    def grace() -> float:
        share = 1 if world.terminated_at is None else TERMINATED_CHILD_SHARE
        return max(0.0, min(share * timing.grace_seconds, watchdog.seconds_left - UPLOADS_END_SECONDS))

    outbox = Outbox(
        folder / "events.jsonl",
        lambda data: bucket.put(keys.events(life), data),
        run_id=manifest.run_id,
        attempt=manifest.attempt,
        life=life,
        now=world.clock.now,
        redact=world.redact,
    )
    desk = Desk(
        manifest=manifest,
        life=life,
        folder=folder,
        clock=world.clock,
        stop=world.stop,
        patience=Patience(lambda: left(UPLOADS_END_SECONDS, TERMINATED_UPLOADS_SHARE)),
        last_patience=Patience(lambda: left(LAST_WORD_SECONDS, 1)),
        grace=grace,
        transfer=world.transfer,
        bucket=bucket,
        vouching=Vouching(bucket, manifest, life, world.clock.now),
        uploads=Worker("uploads"),
        outbox=outbox,
        log=LogTail(world.redact),
        status=Status(),
        children=world.children,
        redact=world.redact,
    )
    heartbeat = Periodic("heartbeat", timing.heartbeat_seconds, lambda: _beat(desk))
    log = Periodic("log", LOG_SECONDS, lambda: desk.log.send(lambda data: bucket.put(keys.log(life), data)))
    heartbeat.start()
    log.start()
    try:
        yield desk
    finally:
        in_time = not desk.last_patience.over
        heartbeat.close(last=in_time)
        log.close(last=in_time)
        outbox.close()
        desk.uploads.close()
        shutil.rmtree(ours, ignore_errors=True)


def _beat(desk: Desk) -> None:
    beat = Heartbeat(
        run_id=desk.manifest.run_id,
        attempt=desk.manifest.attempt,
        life=desk.life,
        at=desk.clock.now(),
        stage=desk.status.stage,
        epoch=desk.status.epoch,
        step=desk.status.step,
        disk_free_bytes=free_bytes(desk.folder),
    )
    desk.bucket.put(keys.heartbeat(desk.life), beat.encode())
