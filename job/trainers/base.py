"""What the lifecycle knows of a trainer: a command to run, and reports read from its output.

Knows the contract; imports no training library.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from job.contract.reasons import Reason
from job.contract.recipe import Recipe


@dataclass(frozen=True)
class ResumeFrom:
    """Training state to go on from: a folder that the same trainer wrote."""

    folder: Path
    epoch: int
    step: int


@dataclass(frozen=True)
class TrainingTask:
    """One training on this machine. Paths exist, inputs are verified."""

    recipe: Recipe
    data_dir: Path
    """Kohya layout: holds one folder `NN_name` with images and captions."""
    base_model: Path
    """A diffusers folder, or a single safetensors file."""
    output_dir: Path
    """Where checkpoints and states are written; empty at the start of a life."""
    init_weights: Path | None = None
    resume: ResumeFrom | None = None
    state_every_seconds: float = 300


@dataclass(frozen=True)
class Command:
    """A child process to run."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to a minimal environment; the parent's is not inherited."""
    cwd: Path | None = None


@dataclass(frozen=True)
class Started:
    """The trainer counted its work."""

    total_steps: int
    steps_per_epoch: int
    total_epochs: int
    first_step: int = 0


@dataclass(frozen=True)
class Stepped:
    """One optimizer step was made."""

    step: int
    epoch: int
    loss: float


@dataclass(frozen=True)
class Saved:
    """A checkpoint is said to be written: its completeness is still to be checked."""

    path: Path
    epoch: int
    step: int


@dataclass(frozen=True)
class StateSaved:
    """A folder of resume state is complete."""

    path: Path
    epoch: int
    step: int


@dataclass(frozen=True)
class Remark:
    """Something to pass on to a person."""

    message: str


@dataclass(frozen=True)
class Trouble:
    """The trainer knows why it fails."""

    reason: Reason
    message: str


Report = Started | Stepped | Saved | StateSaved | Remark | Trouble


class ReportReader(Protocol):
    """Turns a child's output into reports."""

    def feed(self, line: str) -> Iterator[Report]:
        """Read one line of output, without its end; a line that says nothing gives nothing."""
        ...


class Trainer(Protocol):
    """A way to train a recipe."""

    def command(self, task: TrainingTask) -> Command:
        """Return the child process that trains `task`."""
        ...

    def reader(self, task: TrainingTask) -> ReportReader:
        """Return a fresh reader of that child's output."""
        ...
