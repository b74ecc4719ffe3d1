"""Puts a LoRA into the base's own weights and takes it out again, exactly.

Merged once, it costs nothing per step; the original weights are kept and copied back, since subtracting
would leave rounding behind. Loads what sd-scripts writes, whichever transformers version names the layers.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from job.contract.reasons import Reason
from job.trainers.embedded.errors import TrainingError
from job.trainers.embedded.lora import TEXT_ENCODER, UNET, read_lora, targets


class LoraSlot:
    """A base model that wears one LoRA at a time."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        self._layers = dict(targets(unet, UNET)) | dict(targets(text_encoder, TEXT_ENCODER))
        self._original: dict[str, Tensor] = {}

    @torch.no_grad()
    def wear(self, path: Path | None) -> None:
        """Take off what is worn and put on the LoRA in `path`, if any.

        Raises TrainingError(BAD_INIT_WEIGHTS) for a file that is no LoRA for this base.
        """
        for name, weight in self._original.items():
            self._layers[name].weight.copy_(weight)
        self._original.clear()
        if path is None:
            return
        for name, lora in read_lora(path).items():
            layer = self._layers.get(name)
            if layer is None or layer.weight.shape[:2] != (lora.up.shape[0], lora.down.shape[1]):
                raise TrainingError(
                    Reason.BAD_INIT_WEIGHTS, f"{path.name} does not fit this base: see {name}"
                )
            self._original[name] = layer.weight.detach().clone()
            layer.weight.add_(lora.delta(layer.weight.shape).to(layer.weight.device, layer.weight.dtype))
