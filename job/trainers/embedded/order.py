"""What is trained when and at which rate, as pure functions: a resumed run is the same run.

Counting, shuffling and schedules follow sd-scripts (`train_network.py`, `library/train_util.py`).
Knows the recipe; no training library.
"""

import hashlib
import math
import random

from job.contract.recipe import Recipe


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed below 2**63 for one purpose, such as ("step", 17): independent of all others."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def epoch_batches(images: int, recipe: Recipe, epoch: int) -> tuple[tuple[int, ...], ...]:
    """Return the batches of one epoch as numbers of images: each image `repeat_count` times, shuffled."""
    order = list(range(images)) * recipe.repeat_count
    random.Random(derived_seed(recipe.seed, "order", epoch)).shuffle(order)  # noqa: S311 - no secret
    size = recipe.batch_size
    return tuple(tuple(order[start : start + size]) for start in range(0, len(order), size))


def step_captions(captions: list[str], recipe: Recipe, step: int) -> list[str]:
    """Return the captions as step number `step` sees them: some dropped, phrases shuffled."""
    chance = random.Random(derived_seed(recipe.seed, "captions", step))  # noqa: S311 - no secret
    return [vary_caption(caption, recipe, chance) for caption in captions]


def vary_caption(caption: str, recipe: Recipe, chance: random.Random) -> str:
    """Drop a caption at `caption_dropout_rate`, else shuffle its phrases after the first `keep_tokens`."""
    if recipe.caption_dropout_rate > 0 and chance.random() < recipe.caption_dropout_rate:
        return ""
    if not recipe.shuffle_caption:
        return caption
    phrases = [phrase.strip() for phrase in caption.strip().split(",")]
    kept, loose = phrases[: recipe.keep_tokens], phrases[recipe.keep_tokens :]
    chance.shuffle(loose)
    return ", ".join(kept + loose)


def rate_factor(recipe: Recipe, steps_done: int, total_steps: int) -> float:
    """Return what the learning rates are multiplied with for the step after `steps_done`."""
    warmup = 0 if recipe.lr_scheduler == "constant" else recipe.lr_warmup_steps
    if steps_done < warmup:
        return steps_done / warmup
    if recipe.lr_scheduler in ("constant", "constant_with_warmup"):
        return 1.0
    progress = (steps_done - warmup) / max(1, total_steps - warmup)
    if progress >= 1:
        return 0.0
    if recipe.lr_scheduler == "linear":
        return 1 - progress
    cycles = recipe.lr_scheduler_num_cycles if recipe.lr_scheduler == "cosine_with_restarts" else 1
    return 0.5 * (1 + math.cos(math.pi * (cycles * progress % 1.0)))
