"""The table, part four: base models and LoRAs to go on from, made of headers: no weights are loaded."""

import json
import struct
import zipfile
from collections.abc import Callable, Mapping

from tests.bad_input.place import Place
from tests.bad_input.settings import Command

RANK = 4
BASE = {"unet": (8, 6), "vae": (3, 3), "text_encoder": (5, 5)}
"""Parts with weights, and the shape of their one layer."""
LAYERS = {"lora_unet_mid_to_q": (8, 6), "lora_te_text_model_layers_0_q": (5, 5)}
WITH_BASE = ("run", "--training-zip", "set.zip", "--set", "run.base_model=base")
WITH_ZIP = (*WITH_BASE[:-1], "run.base_model=base.zip")
WITH_FILE = (*WITH_BASE[:-1], "run.base_model=base.safetensors")
WITH_START = (*WITH_BASE, "--lora-dim", str(RANK), "--init-weights", "start.safetensors")

Change = Callable[[dict[str, bytes]], object]


def tensor_file(shapes: Mapping[str, tuple[int, ...]], value: float = 0.5) -> bytes:
    """Return a safetensors file of 16-bit tensors that hold one value."""
    header, data = {}, b""
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        raw = struct.pack("<e", value) * count
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def lora(rank: int = RANK, value: float = 0.5, layers: Mapping[str, tuple[int, int]] = LAYERS) -> bytes:
    """Return a LoRA in kohya's format."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (out, into) in layers.items():
        shapes[f"{name}.alpha"] = ()
        shapes[f"{name}.lora_down.weight"] = (rank, into)
        shapes[f"{name}.lora_up.weight"] = (out, rank)
    return tensor_file(shapes, value)


def base_files() -> dict[str, bytes]:
    """Return the files of a diffusers folder."""
    files = {
        "model_index.json": b"{}",
        "tokenizer/vocab.json": b"{}",
        "scheduler/scheduler_config.json": b"{}",
    }
    layer = {"unet": "mid.to_q.weight", "vae": "conv.weight", "text_encoder": "layers.0.q.weight"}
    for part, shape in BASE.items():
        files[f"{part}/config.json"] = b"{}"
        files[f"{part}/model.safetensors"] = tensor_file({layer[part]: shape})
    return files


def base(change: Change = lambda files: None, *, below: str = "base/") -> Callable[[Place], None]:
    """Write a base model with something changed."""

    def given(place: Place) -> None:
        files = base_files()
        change(files)
        (place.folder / below).mkdir(parents=True)
        for name, data in files.items():
            place.file(below + name, data)

    return given


def zipped_base(change: Change = lambda files: None) -> Callable[[Place], None]:
    """Write a zip of a base model with something changed."""

    def given(place: Place) -> None:
        files = base_files()
        change(files)
        with zipfile.ZipFile(place.folder / "base.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(f"some/where/{name}", data)

    return given


def without(part: str) -> Change:
    """Leave out a file, or all of a folder."""

    def change(files: dict[str, bytes]) -> None:
        for name in [name for name in files if name.startswith(part)]:
            del files[name]

    return change


def having(name: str, data: bytes) -> Change:
    """Put a file into it."""
    return lambda files: files.update({name: data})


def start(data: bytes, name: str = "start.safetensors") -> Callable[[Place], None]:
    """Write a sound base and a LoRA to go on from."""

    def given(place: Place) -> None:
        base()(place)
        place.file(name, data)

    return given


def one_file(data: bytes) -> Callable[[Place], object]:
    """Write a base model that is one file."""
    return lambda place: place.file("base.safetensors", data)


UNET = "unet/model.safetensors"

MODELS = (
    Command("base-absent", lambda place: None, WITH_BASE, ("there is no base",)),
    Command("base-a-text", one_file(b"hello"), WITH_FILE, ("base.safetensors", "diffusers folder")),
    Command(
        "base-one-file-truncated", one_file(lora()[:-9]), WITH_FILE, ("base.safetensors", "diffusers folder")
    ),
    Command("base-of-something-else", one_file(lora()), WITH_FILE, ("base.safetensors", "diffusers folder")),
    Command("base-an-empty-folder", base(dict.clear), WITH_BASE, ("base", "no model_index.json")),
    Command("base-without-index", base(without("model_index")), WITH_BASE, ("base", "no model_index.json")),
    Command("base-without-unet", base(without("unet/")), WITH_BASE, ("base", "has no unet/")),
    Command("base-without-vae", base(without("vae/")), WITH_BASE, ("base", "has no vae/")),
    Command("base-without-tokenizer", base(without("tokenizer/")), WITH_BASE, ("base", "has no tokenizer/")),
    Command("base-without-weights", base(without(UNET)), WITH_BASE, ("base", "no weights in unet/")),
    Command("base-unet-truncated", base(having(UNET, lora()[:-9])), WITH_BASE, (f"base/{UNET}", "cut short")),
    Command(
        "base-unet-a-text",
        base(having(UNET, b"version https://git-lfs")),
        WITH_BASE,
        (f"base/{UNET}", "damaged"),
    ),
    Command("base-sdxl", base(having("text_encoder_2/config.json", b"{}")), WITH_BASE, ("base", "SDXL")),
    Command(
        "base-no-zip",
        lambda place: place.file("base.zip", b"hello"),
        WITH_ZIP,
        ("base.zip", "no readable zip"),
    ),
    Command(
        "base-zip-without-index",
        zipped_base(without("model_index")),
        WITH_ZIP,
        ("base.zip", "model_index.json"),
    ),
    Command("base-zip-without-unet", zipped_base(without("unet/")), WITH_ZIP, ("base.zip", "has no unet/")),
    Command("start-absent", base(), WITH_START, ("there is no start.safetensors",)),
    Command(
        "start-a-folder",
        start(b"", "start.safetensors/x"),
        WITH_START,
        ("start.safetensors", "no .safetensors"),
    ),
    Command(
        "start-a-ckpt",
        start(lora(), "start.ckpt"),
        (*WITH_START[:-1], "start.ckpt"),
        ("start.ckpt", "no .safetensors file"),
    ),
    Command(
        "start-a-text",
        start(b"a text, long enough"),
        WITH_START,
        ("start.safetensors", "does not begin like"),
    ),
    Command("start-of-no-bytes", start(b""), WITH_START, ("start.safetensors", "cut short")),
    Command("start-truncated", start(lora()[:-9]), WITH_START, ("start.safetensors", "cut short")),
    Command(
        "start-too-long", start(lora() + b"x"), WITH_START, ("start.safetensors", "longer than its header")
    ),
    Command(
        "start-header-no-json",
        start(struct.pack("<Q", 4) + b"what"),
        WITH_START,
        ("start.safetensors", "header"),
    ),
    Command(
        "start-of-no-tensors", start(tensor_file({})), WITH_START, ("start.safetensors", "holds no tensors")
    ),
    Command(
        "start-no-lora",
        start(tensor_file({"a.weight": (2, 2)})),
        WITH_START,
        ("start.safetensors", "no LoRA"),
    ),
    Command(
        "start-half-a-lora",
        start(tensor_file({"lora_unet_mid_to_q.lora_down.weight": (RANK, 6)})),
        WITH_START,
        ("start.safetensors", "no LoRA", "lora_unet_mid_to_q"),
    ),
    Command(
        "start-of-another-rank",
        start(lora(8)),
        WITH_START,
        ("start.safetensors", "rank 8", f"lora_dim is {RANK}"),
    ),
    Command(
        "start-of-another-architecture",
        start(lora(layers={"lora_unet_up_blocks_7": (8, 6)})),
        WITH_START,
        ("start.safetensors", "another base model", "lora_unet_up_blocks_7"),
    ),
    Command(
        "start-of-another-shape",
        start(lora(layers={"lora_unet_mid_to_q": (8, 7)})),
        WITH_START,
        ("start.safetensors", "another base model", "another shape"),
    ),
    Command(
        "start-not-a-number", start(lora(value=float("nan"))), WITH_START, ("start.safetensors", "not finite")
    ),
    Command(
        "start-infinite", start(lora(value=float("inf"))), WITH_START, ("start.safetensors", "not finite")
    ),
)

TAKEN: dict[str, tuple[Callable[[Place], None], tuple[str, ...]]] = {
    "base": (base(), WITH_BASE),
    "base-deeper": (base(below="base/deep/er/"), WITH_BASE),
    "base-zip": (zipped_base(), WITH_ZIP),
    "start": (start(lora()), WITH_START),
    "start-without-text-encoder": (start(lora(layers={"lora_unet_mid_to_q": (8, 6)})), WITH_START),
}
"""What is sound: that it is taken shows that the refusals above are for the reason they give."""
