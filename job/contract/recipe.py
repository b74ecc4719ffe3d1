"""The recipe: what to train and how. The defaults are the manual page's command for SD 1.5, flag for flag."""

import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from job.contract.schema import Wire

EPOCHS_MAX = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]


class TrainerName(StrEnum):
    """Which trainer runs the recipe."""

    KOHYA = "kohya"
    DIFFUSERS = "diffusers"


class Recipe(Wire):
    """One training, independent of machine and trainer. Names follow sd-scripts where it has one."""

    output_name: str = "lora"
    max_epochs: Annotated[int, Field(ge=1, le=EPOCHS_MAX)] = 10
    save_every: Positive = 2
    resolution: tuple[Annotated[int, Field(ge=8, le=4096)], Annotated[int, Field(ge=8, le=4096)]] = (512, 512)
    """Width and height in pixels."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 4
    repeat_count: Annotated[int, Field(ge=1, le=10_000)] = 10
    """How often each image is seen in one epoch (kohya's `NN_` folder prefix)."""
    learning_rate: Rate = 1e-4
    """Of the U-Net; sd-scripts' --learning_rate and --unet_lr."""
    text_lr: Rate = 5e-5
    """Of the text encoder; 0 leaves it alone."""
    lr_scheduler: Literal["cosine_with_restarts", "cosine", "linear", "constant", "constant_with_warmup"] = (
        "cosine_with_restarts"
    )
    lr_scheduler_num_cycles: Positive = 1
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    lora_dim: Annotated[int, Field(ge=1, le=1024)] = 32
    lora_alpha: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] = 16
    optimizer: Literal["AdamW8bit", "AdamW"] = "AdamW8bit"
    mixed_precision: Literal["no", "fp16", "bf16"] = "fp16"
    save_precision: Literal["fp16", "bf16", "float"] = "fp16"
    caption_extension: str = ".txt"
    shuffle_caption: bool = True
    keep_tokens: Annotated[int, Field(ge=0, le=100)] = 2
    """How many leading comma-separated phrases a shuffle leaves in place."""
    caption_dropout_rate: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """Share of samples trained on an empty caption."""
    max_token_length: Literal[75, 150, 225] = 225
    network_dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    min_snr_gamma: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Min-SNR loss weighting (arXiv:2303.09556); off as in the manual page."""
    resize_interpolation: Literal["area", "lanczos", "nearest"] = "nearest"
    """How images become the training resolution; pixel art survives nearest alone."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    cache_latents: bool = True
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42

    @field_validator("output_name")
    @classmethod
    def _is_file_stem(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("must be a file name of letters, digits, dot, dash and underscore")
        return name

    @field_validator("caption_extension")
    @classmethod
    def _is_extension(cls, extension: str) -> str:
        if not re.fullmatch(r"\.[A-Za-z0-9]{1,16}", extension):
            raise ValueError("must be a dot and letters, such as .txt")
        return extension

    @model_validator(mode="after")
    def _resolution_fits_the_latents(self) -> Self:
        if any(side % 8 for side in self.resolution):
            raise ValueError("resolution: both sides must be multiples of 8 pixels")
        return self

    @property
    def saved_epochs(self) -> tuple[int, ...]:
        """The epochs after which a checkpoint is written: every `save_every`th, and the last."""
        regular = range(self.save_every, self.max_epochs + 1, self.save_every)
        return tuple(sorted({*regular, self.max_epochs}))

    def steps_per_epoch(self, images: int) -> int:
        """Return the optimizer steps of one epoch over `images`; the last batch may be smaller and counts."""
        return -(-images * self.repeat_count // self.batch_size)

    def checkpoint_name(self, epoch: int) -> str:
        """Return the checkpoint's file name after `epoch`, numbered as sd-scripts numbers them."""
        return f"{self.output_name}-{epoch:06d}.safetensors"
