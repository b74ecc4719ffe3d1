"""The embedded trainer as the lifecycle sees it: starts the child and reads its reports.

Knows the child's task file and lines, and no training library: those live in the child.
"""

import sys
from collections.abc import Iterator

from job.trainers.base import Command, Report, ReportReader, TrainingTask
from job.trainers.embedded.environment import child_environment
from job.trainers.embedded.task import write_task
from job.trainers.embedded.wire import decode

TASK_FILE = "training-task.json"


class DiffusersTrainer:
    """Trains a LoRA with diffusers, on a CPU or a GPU; implements `job.trainers.base.Trainer`."""

    def command(self, task: TrainingTask) -> Command:
        """Write the task file into the output folder and return the child that reads it."""
        task.output_dir.mkdir(parents=True, exist_ok=True)
        path = task.output_dir / TASK_FILE
        write_task(task, path)
        return Command((sys.executable, "-m", "job.trainers.embedded", str(path)), child_environment())

    def reader(self, task: TrainingTask) -> ReportReader:  # noqa: ARG002 - the lines say it all
        """Return a reader of the child's stdout."""
        return _LineReader()


class _LineReader:
    """One JSON object a line; what libraries print is no report and is passed over."""

    def feed(self, line: str) -> Iterator[Report]:
        report = decode(line)
        if report is not None:
            yield report
