"""What the embedded default trains on: drawings, dataset, vocabulary and ruler belong together."""

from __future__ import annotations

import io
import json
import random
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from job.evaluate.ruler import Ruler, load_ruler

TINYPUNKS = Path(__file__).resolve().parents[2] / "examples" / "tinypunks"
sys.path.insert(0, str(TINYPUNKS))

import make_dataset  # noqa: E402 - the example's scripts stand alone, outside any package
import make_ruler  # noqa: E402
import portraits  # noqa: E402

TAUGHT_WORDS = {*portraits.HAIRSTYLES, *portraits.EXPRESSIONS, "mouth"}


@pytest.fixture(scope="module")
def ruler() -> Ruler:
    return load_ruler((TINYPUNKS / "ruler.json").read_bytes())


def words(caption: str) -> set[str]:
    return set(caption.replace(",", " ").split())


def test_dataset_is_what_its_script_makes() -> None:
    assert (TINYPUNKS / "dataset.zip").read_bytes() == make_dataset.dataset_zip()


def test_ruler_is_what_its_script_makes() -> None:
    assert (TINYPUNKS / "ruler.json").read_bytes() == make_ruler.ruler_json()


def test_dataset_is_small_and_in_the_users_layout() -> None:
    data = (TINYPUNKS / "dataset.zip").read_bytes()
    assert len(data) < 400_000
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert len(names) == 2 * 203
        for picture, text in zip(names[::2], names[1::2], strict=True):
            assert picture.removesuffix(".png") == text.removesuffix(".txt")
            sex = picture.split("_")[0]
            caption = archive.read(text).decode()
            assert caption.startswith(f"pixel art, 24x24, portrait of tiny punk {sex}, ")
            with Image.open(io.BytesIO(archive.read(picture))) as image:
                assert image.size == (24, 24)
                image.load()


def test_pictures_in_the_dataset_show_what_their_captions_say(ruler: Ruler) -> None:
    with zipfile.ZipFile(TINYPUNKS / "dataset.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".png"):
                said = archive.read(name.replace(".png", ".txt")).decode().strip().split(", ")
                shown = ruler.read(Image.open(io.BytesIO(archive.read(name))))
                assert f"{shown['hairstyle']} hair" in said
                assert f"{shown['expression']} mouth" in said
                assert (f"wearing {shown['eyewear']}" in said) == (shown["eyewear"] != "none")


def test_dataset_is_balanced_and_has_no_doubles() -> None:
    subjects = make_dataset.subjects()
    pairs = Counter((one.hairstyle, one.expression) for one in subjects)
    assert len(pairs) == 8
    assert max(pairs.values()) - min(pairs.values()) <= 1
    pictures = {portraits.paint(one).tobytes() for one in subjects}
    assert len(pictures) == len(subjects) == 203


def test_png_holds_exactly_the_drawn_pixels() -> None:
    drawn = portraits.paint(make_dataset.subjects()[0])
    with Image.open(io.BytesIO(make_dataset.png(drawn))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), drawn)


@pytest.mark.parametrize("seed", range(5))
def test_ruler_reads_drawings(ruler: Ruler, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        portrait = portraits.draw_attributes(rng)
        shown = ruler.read(portraits.image(portrait).resize((72, 72), Image.Resampling.NEAREST))
        assert shown == {name: getattr(portrait, name) for name in ruler.attributes}


def test_ruler_measures_what_is_taught(ruler: Ruler) -> None:
    assert set(portraits.TAUGHT) <= set(ruler.attributes)
    assert ruler.attributes["hairstyle"] == list(portraits.HAIRSTYLES)
    assert ruler.attributes["expression"] == list(portraits.EXPRESSIONS)


def test_prompts_ask_for_each_taught_pair_equally_often(ruler: Ruler) -> None:
    pairs = Counter((one.asked["hairstyle"], one.asked["expression"]) for one in ruler.prompts)
    assert len(pairs) == 8
    assert len(set(pairs.values())) == 1
    for one in ruler.prompts:
        assert f"{one.asked['hairstyle']} hair" in one.prompt
        assert f"{one.asked['expression']} mouth" in one.prompt


def test_pretraining_captions_never_name_what_is_taught() -> None:
    rng = random.Random(0)
    for _ in range(2_000):
        said = words(portraits.caption(portraits.draw_attributes(rng), taught=False))
        assert not said & TAUGHT_WORDS


def test_every_word_of_every_caption_is_in_the_vocabulary() -> None:
    vocabulary = set(portraits.vocabulary())
    rng = random.Random(1)
    for _ in range(2_000):
        assert words(portraits.caption(portraits.draw_attributes(rng), taught=True)) <= vocabulary


def test_base_has_one_token_for_every_word() -> None:
    tokens = json.loads((TINYPUNKS / "base" / "tokenizer" / "vocab.json").read_text())
    # CLIP reads digits one by one, so "24x24" is no word of its own.
    missing = [word for word in portraits.vocabulary() if word.isalpha() and f"{word}</w>" not in tokens]
    assert not missing


@pytest.fixture(scope="module")
def pipe() -> Any:
    diffusers = pytest.importorskip("diffusers")
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(TINYPUNKS / "base", safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.slow
def test_base_loads_in_full_precision_and_draws(pipe: Any) -> None:
    import torch

    assert {one.dtype for one in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    drawn = pipe("pixel art", num_inference_steps=1, height=24, width=24).images[0]
    assert drawn.size == (24, 24)


@pytest.mark.slow
def test_base_reads_a_caption_word_by_word(pipe: Any) -> None:
    assert pipe.tokenizer.model_max_length == 77
    assert pipe.tokenizer.tokenize("curly hair, smiling") == ["curly</w>", "hair</w>", ",</w>", "smiling</w>"]


@pytest.mark.slow
def test_autoencoder_keeps_every_attribute_readable(pipe: Any, ruler: Ruler) -> None:
    import torch

    rng = random.Random(2)
    drawn = [portraits.draw_attributes(rng) for _ in range(200)]
    pixels = torch.tensor(np.stack([portraits.paint(one) for one in drawn])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        again = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mean).sample
    cells = ((again.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    read = [ruler.read(Image.fromarray(one)) for one in cells]
    for name in ruler.attributes:
        hits = sum(shown[name] == getattr(one, name) for shown, one in zip(read, drawn, strict=True))
        assert hits >= 0.98 * len(drawn), name
