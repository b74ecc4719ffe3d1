"""Drawing as the lifecycle sees it: starts the child that draws images, and reads what it says.

    {"kind": "drawn", "epoch": 2, "image": "red-hat-1"}
    {"kind": "epoch_done", "epoch": 2, "images": 16, "seconds": 21.4}

Knows the plan and the child's lines, and no training library: those live in the child.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.contract.manifest import EvaluationPlan
from job.contract.recipe import Recipe
from job.trainers.base import Command, Remark, Trouble
from job.trainers.embedded.environment import child_environment
from job.trainers.embedded.wire import decode


@dataclass(frozen=True)
class Canvas:
    """The images of one epoch: by which LoRA, and where to."""

    epoch: int
    lora: Path | None
    """A LoRA in kohya's format; None draws with the base as it is."""
    out: Path
    """Folder of `<prompt name>.png`; whole images that are there already are kept."""


@dataclass(frozen=True)
class DrawTask:
    """Everything one child draws; the base is loaded once."""

    recipe: Recipe
    """Its resolution, token length and precision are those of the images."""
    base_model: Path
    plan: EvaluationPlan
    canvases: tuple[Canvas, ...]


@dataclass(frozen=True)
class Drawn:
    """One image is written."""

    epoch: int
    image: str


@dataclass(frozen=True)
class EpochDrawn:
    """All images of an epoch are there. `seconds` counts this child's work, images kept cost none."""

    epoch: int
    images: int
    seconds: float


DrawReport = Drawn | EpochDrawn | Remark | Trouble


def draw_command(task: DrawTask, task_file: Path) -> Command:
    """Write `task` to `task_file` and return the child that draws it."""
    task_file.write_text(encode_task(task), encoding="utf-8")
    return Command((sys.executable, "-m", "job.evaluate.draw", str(task_file)), child_environment())


def encode_task(task: DrawTask) -> str:
    """Return `task` as JSON."""
    return json.dumps(
        {
            "recipe": task.recipe.model_dump(mode="json"),
            "base_model": str(task.base_model),
            "plan": task.plan.model_dump(mode="json"),
            "canvases": [
                {"epoch": item.epoch, "lora": item.lora and str(item.lora), "out": str(item.out)}
                for item in task.canvases
            ],
        },
        indent=1,
    )


def decode_task(text: str) -> DrawTask:
    """Read what `encode_task` wrote."""
    said: dict[str, Any] = json.loads(text)
    return DrawTask(
        recipe=Recipe.model_validate_json(json.dumps(said["recipe"])),
        base_model=Path(said["base_model"]),
        plan=EvaluationPlan.model_validate_json(json.dumps(said["plan"])),
        canvases=tuple(
            Canvas(item["epoch"], Path(item["lora"]) if item["lora"] else None, Path(item["out"]))
            for item in said["canvases"]
        ),
    )


def encode_drawn(report: Drawn | EpochDrawn) -> str:
    """Return the report as one line of JSON, without its end."""
    if isinstance(report, Drawn):
        return json.dumps({"kind": "drawn", "epoch": report.epoch, "image": report.image})
    return json.dumps(
        {"kind": "epoch_done", "epoch": report.epoch, "images": report.images, "seconds": report.seconds}
    )


def parse(line: str) -> DrawReport | None:
    """Read a line of the child's stdout; a line that says nothing is None."""
    common = decode(line)
    if isinstance(common, Remark | Trouble):
        return common
    try:
        said = json.loads(line)
        if said["kind"] == "drawn":
            return Drawn(int(said["epoch"]), str(said["image"]))
        if said["kind"] == "epoch_done":
            return EpochDrawn(int(said["epoch"]), int(said["images"]), float(said["seconds"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None
