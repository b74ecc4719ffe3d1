"""LoRA as sd-scripts' `networks.lora` defines it: which layers, their names, their scale.

    y = W x + up(dropout(down(x))) * alpha / rank

Own layers rather than peft's, because network_dropout acts after `down` here and before it there, and
because these tensors are the file's tensors, name for name.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from job.contract.reasons import Reason
from job.trainers.embedded.errors import TrainingError

UNET = "lora_unet"
TEXT_ENCODER = "lora_te"
_BLOCKS = {UNET: {"Transformer2DModel"}, TEXT_ENCODER: {"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"}}


def targets(model: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Yield (name in the file, layer) of each layer that gets a LoRA; `prefix` is UNET or TEXT_ENCODER."""
    for block_name, block in model.named_modules():
        if type(block).__name__ not in _BLOCKS[prefix]:
            continue
        for name, layer in block.named_modules():
            linear = isinstance(layer, nn.Linear)
            if linear or (isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride == (1, 1)):
                path = f"{block_name}.{name}"
                if prefix == TEXT_ENCODER and not path.startswith("text_model."):
                    path = f"text_model.{path}"  # transformers 5 dropped this level; files keep it
                yield f"{prefix}_{path.replace('.', '_')}", layer


class LoraLayer(nn.Module):
    """The trained addition to one layer, in fp32."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.down: nn.Linear | nn.Conv2d
        self.up: nn.Linear | nn.Conv2d
        if isinstance(layer, nn.Conv2d):
            self.down = nn.Conv2d(layer.in_channels, rank, 1, bias=False)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        self._scale = alpha / rank
        self._dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the layer's output for the same input."""
        low = self.down(x)
        if self._dropout:
            low = functional.dropout(low, self._dropout, training=self.training)
        # Scaled at rank width, where it costs least.
        added: Tensor = self.up(low * self._scale)
        return added


class LoraNetwork:
    """The LoRA of a text encoder and a U-Net, attached to both."""

    def __init__(
        self, unet: nn.Module, text_encoder: nn.Module, *, rank: int, alpha: float, dropout: float
    ) -> None:
        self.rank = rank
        self.alpha = alpha
        self.text_encoder = self._attach(text_encoder, TEXT_ENCODER, dropout)
        self.unet = self._attach(unet, UNET, dropout)

    def _attach(self, model: nn.Module, prefix: str, dropout: float) -> nn.ModuleDict:
        layers = nn.ModuleDict()
        for name, target in targets(model, prefix):
            layer = LoraLayer(target, self.rank, self.alpha, dropout)
            layers[name] = layer
            target.register_forward_hook(_adding(layer))
        return layers

    def layers(self) -> Iterator[tuple[str, LoraLayer]]:
        """Yield (name in the file, layer), the text encoder's first."""
        for group in (self.text_encoder, self.unet):
            for name, layer in group.items():
                assert isinstance(layer, LoraLayer)
                yield name, layer

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the file's tensors, on the CPU."""
        found: dict[str, Tensor] = {}
        for name, layer in self.layers():
            found[f"{name}.alpha"] = torch.tensor(self.alpha, dtype=dtype)
            for part, module in (("lora_down", layer.down), ("lora_up", layer.up)):
                found[f"{name}.{part}.weight"] = module.weight.detach().to("cpu", dtype).contiguous()
        return found

    def load(self, weights: Mapping[str, "LoraWeights"], file_name: str) -> list[str]:
        """Start from the weights of a file; return what a person should know about the match.

        A file of another alpha starts from the same images: its `up` is rescaled.
        Raises TrainingError(BAD_INIT_WEIGHTS) when rank or architecture do not match.
        """
        own = dict(self.layers())
        unknown = [name for name in weights if name not in own]
        if unknown:
            raise _refused(f"{file_name} was made for another base model: this one has no {unknown[0]}")
        missing = [name for name in own if name not in weights]
        if any(name.startswith(UNET) for name in missing):
            raise _refused(f"{file_name} was made for another base model: it lacks {missing[-1]}")
        ranks = sorted({item.rank for item in weights.values()} - {self.rank})
        if ranks:
            raise _refused(f"{file_name} has rank {ranks[0]}, the recipe's lora_dim is {self.rank}")
        for name, item in weights.items():
            layer = own[name]
            if item.down.shape != layer.down.weight.shape or item.up.shape != layer.up.weight.shape:
                raise _refused(f"{file_name} was made for another base model: {name} has another shape")
            with torch.no_grad():
                layer.down.weight.copy_(item.down)
                layer.up.weight.copy_(item.up * (item.alpha / self.alpha))
        remarks = []
        if missing:
            remarks.append(f"{file_name} has no text encoder weights: those start anew")
        alphas = sorted({item.alpha for item in weights.values()} - {self.alpha})
        if alphas:
            remarks.append(f"{file_name} has alpha {alphas[0]:g}, rescaled to the recipe's {self.alpha:g}")
        return remarks


def _adding(layer: LoraLayer) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added: Tensor = layer(inputs[0])
        return output + added

    return hook


@dataclass(frozen=True)
class LoraWeights:
    """One layer's part of a LoRA file, in fp32."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Width between `down` and `up`."""
        return self.down.shape[0]

    def delta(self, shape: torch.Size) -> Tensor:
        """Return what the LoRA adds to a weight of this shape."""
        return (self.up.flatten(1) @ self.down.flatten(1)).reshape(shape) * (self.alpha / self.rank)


def read_lora(path: Path) -> dict[str, LoraWeights]:
    """Read a LoRA in kohya's format. Raises TrainingError(BAD_INIT_WEIGHTS) when it is none."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _refused(f"{path.name} cannot be read as safetensors") from error
    names = {key.split(".")[0] for key in tensors}
    if not names or not all(name.startswith((UNET, TEXT_ENCODER)) for name in names):
        raise _refused(f"{path.name} is no LoRA in kohya's format for SD 1.x")
    found = {}
    for name in names:
        try:
            down, up = (tensors[f"{name}.lora_{part}.weight"].float() for part in ("down", "up"))
        except KeyError:
            raise _refused(f"{path.name} is incomplete or no plain LoRA: see {name}") from None
        if down.shape[0] != up.shape[1]:
            raise _refused(f"{path.name} is damaged: the ranks of {name} differ")
        alpha = tensors.get(f"{name}.alpha")
        found[name] = LoraWeights(down, up, float(down.shape[0] if alpha is None else alpha))
    return found


def _refused(message: str) -> TrainingError:
    return TrainingError(Reason.BAD_INIT_WEIGHTS, message)
