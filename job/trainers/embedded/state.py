"""Resume state: a folder from which training goes on as if it had never stopped.

Everything random is a function of seed and step (see `order`), so weights, optimizer and loss scale suffice.
"""

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from job.contract.reasons import Reason
from job.contract.recipe import Recipe
from job.trainers.base import ResumeFrom
from job.trainers.embedded.errors import TrainingError
from job.trainers.embedded.files import write_folder

KEPT = 2
FREE_TO_DIFFER = frozenset({"output_name", "save_every", "save_precision", "gradient_checkpointing"})
"""What of the recipe may differ between a state and the training that goes on from it."""
_ABOUT, _WEIGHTS, _OPTIMIZER = "state.json", "lora.safetensors", "optimizer.pt"


def save_state(
    output_dir: Path,
    *,
    recipe: Recipe,
    epoch: int,
    step: int,
    images: int,
    weights: dict[str, Tensor],
    optimizer: Mapping[str, Any],
) -> Path:
    """Write `state-<epoch>/` after `epoch` and delete all but the newest states; return its path."""
    stream = io.BytesIO()
    torch.save(optimizer, stream)
    about = {"epoch": epoch, "step": step, "images": images, "recipe": recipe.model_dump(mode="json")}
    path = output_dir / f"state-{epoch:06d}"
    write_folder(
        path,
        {
            _WEIGHTS: save(weights),
            _OPTIMIZER: stream.getvalue(),
            _ABOUT: json.dumps(about, indent=1).encode(),
        },
    )
    for old in sorted(output_dir.glob("state-" + "[0-9]" * 6))[:-KEPT]:
        shutil.rmtree(old)
    return path


def load_state(
    resume: ResumeFrom, *, recipe: Recipe, images: int, device: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and optimizer state.

    Raises TrainingError(BAD_RECIPE) when they were made by another recipe, dataset or step than is said,
    TrainingError(BAD_INPUT) when the folder cannot be read.
    """
    folder = resume.folder
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        weights = load_file(folder / _WEIGHTS)
        optimizer = torch.load(folder / _OPTIMIZER, map_location=device, weights_only=True)
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise TrainingError(Reason.BAD_INPUT, f"resume state {folder.name} cannot be read") from error
    now = recipe.model_dump(mode="json") | {"epoch": resume.epoch, "step": resume.step, "images": images}
    then = about["recipe"] | {key: about[key] for key in ("epoch", "step", "images")}
    differing = sorted(key for key in now if now[key] != then.get(key) and key not in FREE_TO_DIFFER)
    if differing:
        raise TrainingError(
            Reason.BAD_RECIPE,
            f"resume state {folder.name} was made with another "
            + ", ".join(f"{key} ({then.get(key)}, now {now[key]})" for key in differing),
        )
    return weights, optimizer
