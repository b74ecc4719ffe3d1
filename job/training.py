"""Runs the trainer and turns its reports into events, uploads and, where it goes wrong, a reason.

Knows the Trainer Protocol, supervision and the desk that the lifecycle works at.
"""

import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from job import supervise
from job.checkpoints import Checkpoints
from job.contract.events import Progress, TrainingStarted, Warned
from job.contract.reasons import Reason
from job.desk import Desk
from job.errors import JobError
from job.files import free_bytes, human
from job.state import StateKeeper
from job.trainers.base import (
    Remark,
    Report,
    Saved,
    Started,
    StateSaved,
    Stepped,
    Trainer,
    TrainingTask,
    Trouble,
)

LAST_LINES = 15
DISK_LOOK_SECONDS = 10
_KERNEL_COUNTS = Path("/sys/fs/cgroup/memory.events")
_MEMORY_WORDS = re.compile(r"out of memory|OutOfMemoryError|MemoryError|can't allocate memory", re.IGNORECASE)
_DISK_WORDS = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
_SCARCE = 0.05
"""Share of memory below which a SIGKILL is likely the kernel's."""


@dataclass
class Trained:
    """How far training came."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    steps_per_epoch: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    """Of the steps that no progress event has told yet."""


class Training:
    """One run of the trainer in this life."""

    def __init__(
        self,
        desk: Desk,
        task: TrainingTask,
        checkpoints: Checkpoints,
        states: StateKeeper,
        *,
        checkpoint_bytes: int,
    ) -> None:
        self._desk = desk
        self._task = task
        self._checkpoints = checkpoints
        self._states = states
        self._floor = 2 * checkpoint_bytes
        self._done = Trained()
        if task.resume is not None:
            self._done.epoch, self._done.step = task.resume.epoch, task.resume.step
        self._told_at = self._looked_at = self._moved_at = time.monotonic()
        self._told_step = self._done.step
        self._scarce = False

    def run(self, trainer: Trainer) -> Trained:
        """Train to the end. Raises JobError with the reason when that is not reached."""
        desk, reader = self._desk, trainer.reader(self._task)
        killed_before = _kernel_kills()

        def on_line(line: supervise.Line) -> None:
            desk.log.add(line.text, rewritten=line.rewritten)
            for report in reader.feed(line.text):
                self._take(report)

        try:
            ended = supervise.run(
                trainer.command(self._task),
                on_line=on_line,
                tick=self._tick,
                grace=desk.grace,
                children=desk.children,
            )
        finally:
            self._tell_progress()
            self._checkpoints.take_rest(self._task.output_dir, steps_per_epoch=self._done.steps_per_epoch)
        if ended.code != 0:
            desk.stop.check()  # it may have been killed for that
            raise self._why(ended.code, killed_by_kernel=_kernel_kills() > killed_before)
        return self._done

    def _take(self, report: Report) -> None:
        done, desk = self._done, self._desk
        match report:
            case Started():
                # Speed counts from here: loading a model is no step.
                self._moved_at = self._told_at = time.monotonic()
                done.total_steps, done.steps_per_epoch = report.total_steps, report.steps_per_epoch
                desk.say(
                    TrainingStarted,
                    total_steps=report.total_steps,
                    steps_per_epoch=report.steps_per_epoch,
                    total_epochs=report.total_epochs,
                    first_step=report.first_step,
                )
            case Stepped():
                self._step(report)
            case Saved():
                self._moved_at = time.monotonic()
                self._checkpoints.take(report.path, report.epoch, report.step)
            case StateSaved():
                # Who resumes from it will not make these steps again: their losses are told first.
                self._tell_progress()
                self._states.offer(report.path, report.epoch, report.step)
            case Remark():
                desk.say(Warned, message=report.message)
            case Trouble():
                raise JobError(report.reason, desk.redact(report.message))

    def _step(self, report: Stepped) -> None:
        done = self._done
        self._moved_at = time.monotonic()
        done.step, done.epoch = max(done.step, report.step), max(done.epoch, report.epoch)
        self._desk.status.step, self._desk.status.epoch = done.step, done.epoch
        if not math.isfinite(report.loss):
            raise JobError(
                Reason.NAN_LOSS,
                f"the loss was {report.loss} at step {report.step}, epoch {report.epoch}: training diverged",
            )
        done.losses.append((report.step, report.loss))

    def _tick(self) -> None:
        """What is watched while the trainer works: stop requests, silence, failed uploads, the disk, the
        clock.
        """
        desk, now = self._desk, time.monotonic()
        desk.stop.check()
        desk.uploads.check()
        limit = desk.manifest.timing.step_stall_seconds
        if now - self._moved_at > limit:
            raise JobError(Reason.STALLED, f"the trainer made no step for {limit:g} seconds")
        if now - self._looked_at > DISK_LOOK_SECONDS:
            self._looked_at = now
            memory = psutil.virtual_memory()
            self._scarce = memory.available < _SCARCE * memory.total
            free = free_bytes(desk.folder)
            if free < self._floor:
                raise JobError(
                    Reason.DISK_FULL,
                    f"{human(free)} are free, two checkpoints need an estimated {human(self._floor)}",
                )
        if self._done.losses and now - self._told_at >= desk.manifest.timing.progress_seconds:
            self._tell_progress()

    def _tell_progress(self) -> None:
        """Tell every loss since the last time. At the end of training this may come earlier than the
        period.
        """
        done, now = self._done, time.monotonic()
        if not done.losses:
            return
        elapsed = now - self._told_at
        self._desk.say(
            Progress,
            step=done.step,
            total_steps=done.total_steps,
            epoch=done.epoch,
            steps_per_second=round((done.step - self._told_step) / elapsed, 4) if elapsed > 0 else None,
            losses=tuple(done.losses),
        )
        done.losses.clear()
        self._told_at, self._told_step = now, done.step

    def _why(self, code: int, *, killed_by_kernel: bool) -> JobError:
        """Say why the trainer failed, from its exit code, its last words and the kernel's counters."""
        words = self._desk.log.end(LAST_LINES)
        if _DISK_WORDS.search(words):
            return JobError(Reason.DISK_FULL, f"the trainer ran out of disk: {words}")
        if _MEMORY_WORDS.search(words):
            return JobError(Reason.OUT_OF_MEMORY, f"the trainer ran out of memory: {words}")
        if code == -9 and (killed_by_kernel or self._scarce):
            sign = "the kernel counted a kill for want of memory" if killed_by_kernel else "memory was scarce"
            return JobError(
                Reason.OUT_OF_MEMORY,
                f"the trainer was killed by signal 9; {sign}, so memory is our guess. {words}",
            )
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return JobError(Reason.TRAINER_CRASHED, f"the trainer {how}. Its last output: {words or 'none'}")


def _kernel_kills() -> int:
    """Return how often the kernel killed in this container for want of memory (cgroup v2), 0 where
    unknown.
    """
    try:
        counts = dict(line.split() for line in _KERNEL_COUNTS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
