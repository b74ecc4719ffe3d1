"""Inside a pod of the kill tests: the real job, with the trainer and the drawing of these tests.

Imported as the pod's interpreter starts, by the `sitecustomize` that `kills.pod_sources` writes: the product
has no switch for it and runs as it is.
"""

import json
import sys
from pathlib import Path

from job.evaluate import drawing
from job.trainers.base import Command, TrainingTask
from job.trainers.diffusers import DiffusersTrainer

TRAINER = Path(__file__).with_name("kills_trainer.py")
DRAWING = Path(__file__).parents[1] / "job" / "scripted_drawing.py"


def _train(_self: DiffusersTrainer, task: TrainingTask) -> Command:
    recipe = task.recipe
    asked = {
        "epochs": recipe.max_epochs,
        "rank": recipe.lora_dim,
        "saved": {epoch: recipe.checkpoint_name(epoch) for epoch in recipe.saved_epochs},
        "output_dir": str(task.output_dir),
        "resume": task.resume and str(task.resume.folder),
    }
    return Command((sys.executable, str(TRAINER), json.dumps(asked)))


def _draw(task: drawing.DrawTask, task_file: Path) -> Command:
    task_file.write_text(drawing.encode_task(task))
    return Command((sys.executable, str(DRAWING), str(task_file), "draw"))


DiffusersTrainer.command = _train  # type: ignore[assignment, method-assign]
drawing.draw_command = _draw
