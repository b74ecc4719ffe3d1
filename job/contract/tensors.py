"""Reads safetensors files with numpy: are they whole, and do they hold a LoRA that can be used? Never imports
torch. Part of the contract, for LoRAs go both ways: what one side accepts, the other must.

Format: 8 bytes of little-endian header length, a JSON header of name → {dtype, shape, data_offsets}, then the
data.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES_MAX = 100_000_000
"""The format's own limit."""
_WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_CHUNK_VALUES = 1 << 22
LORA_PREFIXES = ("lora_unet_", "lora_te_")
LORA_PARTS = {"lora_down.weight", "lora_up.weight"}


class MalformedError(Exception):
    """The bytes are no safetensors file, however long one waits."""


@dataclass(frozen=True)
class Tensor:
    """A tensor's place in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says it holds. `data_start` counts from the file's begin, tensors' places from there."""

    tensors: tuple[Tensor, ...]
    data_start: int

    @property
    def file_bytes(self) -> int:
        """Size of the complete file."""
        return self.data_start + max((tensor.end for tensor in self.tensors), default=0)


@dataclass(frozen=True)
class Findings:
    """What a look at every value showed."""

    not_finite: tuple[str, ...]
    untrained: bool
    """Every `lora_up` is zero: the LoRA changes nothing."""
    ranks: frozenset[int]


def read_header(path: Path) -> Header | None:
    """Return the header, or None while the file is still too short to hold it. Raises MalformedError."""
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            return None
        length = int.from_bytes(prefix, "little")
        if not 2 <= length <= HEADER_BYTES_MAX:
            raise MalformedError(f"{path.name} does not begin like a safetensors file")
        text = file.read(length)
        if len(text) < length:
            return None
    try:
        fields = json.loads(text)
        tensors = tuple(_tensor(name, value) for name, value in fields.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedError(f"{path.name} has no readable safetensors header") from None
    return Header(tensors, 8 + length)


def is_complete(path: Path) -> bool:
    """Whether the file has the very size that its header announces. Raises MalformedError when it has
    outgrown it.
    """
    header = read_header(path)
    if header is None:
        return False
    size = path.stat().st_size
    if size > header.file_bytes:
        raise MalformedError(f"{path.name} is {size - header.file_bytes} bytes longer than its header says")
    return size == header.file_bytes


def inspect(path: Path) -> Findings:
    """Look at every value of a complete LoRA file."""
    header = read_header(path)
    if header is None:
        raise MalformedError(f"{path.name} is not complete")
    not_finite: list[str] = []
    ups_changed: list[bool] = []
    ranks: set[int] = set()
    with path.open("rb") as file:
        for tensor in header.tensors:
            finite, zero = _look(file, header.data_start, tensor)
            if not finite:
                not_finite.append(tensor.name)
            if ".lora_up." in tensor.name:
                ups_changed.append(not zero)
            elif ".lora_down." in tensor.name and tensor.shape:
                ranks.add(tensor.shape[0])
    return Findings(tuple(not_finite), not any(ups_changed), frozenset(ranks))


def check_start(path: Path, rank: int) -> None:
    """Refuse a file that is no LoRA of this rank to go on from. Raises MalformedError naming it."""
    if not is_complete(path):
        raise MalformedError(f"{path.name} was cut short: it is smaller than its own header says")
    header = read_header(path)
    assert header is not None
    layers: dict[str, set[str]] = {}
    for tensor in header.tensors:
        layer, _, part = tensor.name.partition(".")
        layers.setdefault(layer, set()).add(part)
    if not layers:
        raise MalformedError(f"{path.name} holds no tensors")
    for layer, parts in layers.items():
        if not (layer.startswith(LORA_PREFIXES) and parts - {"alpha"} == LORA_PARTS):
            raise MalformedError(f"{path.name} is no LoRA in kohya's format for SD 1.x: see its {layer}")
    found = inspect(path)
    if other := sorted(found.ranks - {rank}):
        raise MalformedError(f"{path.name} has rank {other[0]}, the recipe's lora_dim is {rank}")
    if found.not_finite:
        raise MalformedError(f"{path.name} holds values that are not finite, in {found.not_finite[0]}")


def _tensor(name: str, value: dict[str, Any]) -> Tensor:
    dtype, shape = str(value["dtype"]), tuple(int(side) for side in value["shape"])
    start, end = (int(offset) for offset in value["data_offsets"])
    width = _WIDTH.get(dtype)
    if not 0 <= start <= end or any(side < 0 for side in shape):
        raise ValueError(name)
    if width is not None and end - start != width * math.prod(shape):
        raise ValueError(name)
    return Tensor(name, dtype, shape, start, end)


def _look(file: BinaryIO, data_start: int, tensor: Tensor) -> tuple[bool, bool]:
    """Return whether all values are finite, and whether all are zero."""
    finite, zero = True, True
    for values in _values(file, data_start, tensor):
        finite = finite and bool(np.isfinite(values).all())
        zero = zero and not values.any()
    return finite, zero


def _values(file: BinaryIO, data_start: int, tensor: Tensor) -> Iterator[NDArray[Any]]:
    width = _WIDTH.get(tensor.dtype, 1)
    file.seek(data_start + tensor.start)
    left = tensor.end - tensor.start
    while left:
        raw = file.read(min(left, _CHUNK_VALUES * width))
        if not raw:
            raise MalformedError(f"{tensor.name} is cut short")
        left -= len(raw)
        if tensor.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            yield (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}.get(tensor.dtype, "u1")
            yield np.frombuffer(raw, kind)
