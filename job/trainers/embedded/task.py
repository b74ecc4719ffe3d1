"""The task file: a TrainingTask as JSON, from the parent to the child. Knows no training library."""

import json
from pathlib import Path
from typing import Any

from job.contract.recipe import Recipe
from job.trainers.base import ResumeFrom, TrainingTask


def write_task(task: TrainingTask, path: Path) -> None:
    """Write `task` to `path`."""
    resume = task.resume
    path.write_text(
        json.dumps(
            {
                "recipe": task.recipe.model_dump(mode="json"),
                "data_dir": str(task.data_dir),
                "base_model": str(task.base_model),
                "output_dir": str(task.output_dir),
                "init_weights": None if task.init_weights is None else str(task.init_weights),
                "resume": resume
                and {"folder": str(resume.folder), "epoch": resume.epoch, "step": resume.step},
                "state_every_seconds": task.state_every_seconds,
            },
            indent=1,
        ),
        encoding="utf-8",
    )


def read_task(path: Path) -> TrainingTask:
    """Read what `write_task` wrote."""
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    resume = said["resume"]
    return TrainingTask(
        recipe=Recipe.model_validate_json(json.dumps(said["recipe"])),
        data_dir=Path(said["data_dir"]),
        base_model=Path(said["base_model"]),
        output_dir=Path(said["output_dir"]),
        init_weights=Path(said["init_weights"]) if said["init_weights"] else None,
        resume=ResumeFrom(Path(resume["folder"]), resume["epoch"], resume["step"]) if resume else None,
        state_every_seconds=said["state_every_seconds"],
    )
