"""The recipe of most tests here."""

from typing import Any

from job.contract.recipe import Recipe


def small(**changes: Any) -> Recipe:
    """Five images twice in batches of four: three steps an epoch, the last with two images."""
    values: dict[str, Any] = {
        "resolution": (24, 24),
        "max_epochs": 2,
        "save_every": 1,
        "batch_size": 4,
        "repeat_count": 2,
        "learning_rate": 1e-2,
        "text_lr": 5e-3,
        "lora_dim": 4,
        "lora_alpha": 2,
        "mixed_precision": "no",
        "optimizer": "AdamW",
        "max_token_length": 150,
    }
    return Recipe(**(values | changes))
