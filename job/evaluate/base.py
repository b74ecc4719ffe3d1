"""What the lifecycle knows of drawing: a command to run, and files that it leaves. Knows the
contract alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from job.contract.manifest import EvaluationPlan
from job.trainers.base import Command


@dataclass(frozen=True)
class DrawingTask:
    """The images of one epoch: one PNG for each prompt, called after it, in `folder`."""

    plan: EvaluationPlan
    base_model: Path
    lora: Path | None
    resolution: tuple[int, int]
    max_token_length: int
    folder: Path


class Drawer(Protocol):
    """A way to draw."""

    def __call__(self, task: DrawingTask) -> Command:
        """Return the child process that draws `task`."""
        ...
