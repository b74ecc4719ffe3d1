"""Base model and init weights, looked at before anything is staged: a pod that refuses them costs money.

Knows diffusers folders and safetensors headers; loads no weights. What only loading can tell, the pod tells.
"""

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from job.contract.tensors import LORA_PREFIXES, MalformedError, Tensor, check_start, is_complete, read_header
from launcher.errors import UsageError

INDEX = "model_index.json"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SDXL_PART = "text_encoder_2"
WEIGHTS = {".safetensors", ".bin"}
_WHOLE = "set run.base_model to a whole diffusers folder (unet/, vae/, text_encoder/, tokenizer/, scheduler/)"
_UNET, _TEXT_ENCODER = LORA_PREFIXES
_BROKEN_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OverflowError, RuntimeError,
    ValueError,
)  # fmt: skip


def check_base(path: Path) -> None:
    """Refuse what is no diffusers model of Stable Diffusion 1.x or 2.x: a folder, or a zip of one.

    Raises UsageError naming the file or the part that is missing; OSError when it cannot be read.
    """
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    elif path.suffix == ".zip":
        names = _names_in(path)
    else:
        raise UsageError(
            f"{path} is one file; the embedded trainer needs its configuration, too",
            next_step="set run.base_model to a diffusers folder (unet/, vae/, text_encoder/, ...)",
        )
    root = _root(names)
    if root is None:
        raise UsageError(f"{path} is no diffusers model: it holds no {INDEX}", next_step=_WHOLE)
    inside = [
        PurePosixPath(name).relative_to(root) for name in names if PurePosixPath(name).is_relative_to(root)
    ]
    _check_parts(path, inside)
    if path.is_dir():
        for name in inside:
            if name.parts[0] in PARTS[:3] and name.suffix == ".safetensors":
                _check_whole(path / root / name)


def _check_parts(path: Path, inside: list[PurePosixPath]) -> None:
    """Refuse a model that lacks a part, or a part's weights, or is of another family."""
    present = {name.parts[0] for name in inside if len(name.parts) > 1}
    if SDXL_PART in present:
        raise UsageError(
            f"{path} is an SDXL model; only SD 1.x and 2.x are trained", next_step="choose a base of SD 1.5"
        )
    for part in PARTS:
        if part not in present:
            raise UsageError(f"{path} is no whole diffusers model: it has no {part}/", next_step=_WHOLE)
    for part in PARTS[:3]:
        files = [name for name in inside if name.parent == PurePosixPath(part)]
        if not any(name.suffix in WEIGHTS for name in files):
            raise UsageError(f"{path} has no weights in {part}/", next_step=_WHOLE)


def check_init_weights(path: Path, base: Path, rank: int) -> None:
    """Refuse a LoRA that the recipe cannot go on from: of another format, rank or base, or damaged.

    Raises UsageError naming the file; OSError when it cannot be read.
    """
    advice = "set run.init_weights to a LoRA that was trained on this base, with the recipe's lora_dim"
    if path.suffix != ".safetensors" or not path.is_file():
        raise UsageError(f"{path} is no .safetensors file of a LoRA", next_step=advice)
    try:
        check_start(path, rank)
        header = read_header(path)
        assert header is not None
        _check_fits(path.name, {tensor.name: tensor for tensor in header.tensors}, base)
    except MalformedError as error:
        raise UsageError(f"{error} ({path})", next_step=advice) from None


def _names_in(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [info.filename for info in archive.infolist() if info.filename and not info.is_dir()]
    except _BROKEN_ZIP:
        raise UsageError(f"{path} is no readable zip file", next_step=_WHOLE) from None


def _root(names: list[str]) -> PurePosixPath | None:
    """Return the folder of the outermost index, which is the one that the pod takes."""
    found = [PurePosixPath(name).parent for name in names if PurePosixPath(name).name == INDEX]
    return min(found, key=lambda folder: (len(folder.parts), folder), default=None)


def _check_whole(path: Path) -> None:
    try:
        whole = is_complete(path)
    except MalformedError as error:
        raise UsageError(f"{path} is damaged: {error}", next_step="copy or download it again") from None
    if not whole:
        raise UsageError(
            f"{path} was cut short: it is smaller than its own header says",
            next_step="copy or download it again",
        )


def _check_fits(name: str, tensors: Mapping[str, Tensor], base: Path) -> None:
    """Compare a LoRA's layers with the base's, as far as headers tell. Raises MalformedError."""
    for prefix, part in ((_UNET, "unet"), (_TEXT_ENCODER, "text_encoder")):
        shapes = _shapes(base / part)
        layers = {key.partition(".")[0] for key in tensors if key.startswith(prefix)}
        for layer in sorted(layers if shapes else ()):
            shape = shapes.get(layer.removeprefix(prefix))
            if shape is None:
                raise MalformedError(f"{name} was made for another base model: this one has no {layer}")
            up, down = (tensors[f"{layer}.lora_{end}.weight"].shape for end in ("up", "down"))
            if (up[:1], down[1:2]) != (shape[:1], shape[1:2]):
                raise MalformedError(f"{name} was made for another base model: {layer} has another shape")


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a part's weights by layer, as kohya names them; {} where no header tells."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        header = read_header(file)
        for tensor in header.tensors if header is not None else ():
            layer = tensor.name.removesuffix(".weight").replace(".", "_")
            if folder.name == "text_encoder" and not layer.startswith("text_model_"):
                layer = f"text_model_{layer}"  # transformers 5 dropped this level; LoRA files keep it
            found[layer] = tensor.shape
    return found
