"""The ruler reads shapes in any colours and refuses what it cannot measure; Wilson by published values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from job.evaluate.intervals import wilson
from job.evaluate.ruler import UNCLEAR, RulerError, load_ruler, reduce_to_grid

UPRIGHT = ["ab..", "ab..", "ab..", "ab.."]
LEVEL = ["aa..", "aa..", "bb..", "bb.."]


def ruler_file(**changes: Any) -> bytes:
    values = {"upright": [UPRIGHT], "level": [LEVEL]}
    document: dict[str, Any] = {
        "version": 1,
        "grid": 4,
        "attributes": {"stripe": {"minimum_explained": 0.5, "values": values}},
        "prompts": [{"prompt": "an upright stripe", "asked": {"stripe": "upright"}}],
    }
    return json.dumps(document | changes).encode()


def stripe_values(**values: list[list[str]]) -> dict[str, Any]:
    return {"stripe": {"minimum_explained": 0.5, "values": values}}


def picture(rows: list[str], colours: dict[str, tuple[int, int, int]], scale: int = 1) -> Image.Image:
    cells = np.array([[colours[letter] for letter in row] for row in rows], dtype=np.uint8)
    return Image.fromarray(cells).resize((4 * scale, 4 * scale), Image.Resampling.NEAREST)


@pytest.mark.parametrize("colours", [((0, 0, 0), (255, 255, 255)), ((200, 10, 90), (190, 40, 10))])
@pytest.mark.parametrize("scale", [1, 3, 16])
def test_reads_shape_in_any_palette_and_size(colours: tuple[Any, Any], scale: int) -> None:
    ruler = load_ruler(ruler_file())
    palette = {"a": colours[0], "b": colours[1], ".": (9, 200, 9)}
    assert ruler.read(picture(UPRIGHT, palette, scale)) == {"stripe": "upright"}
    assert ruler.read(picture(LEVEL, palette, scale)) == {"stripe": "level"}


def test_cells_outside_the_template_do_not_count() -> None:
    loud = picture(UPRIGHT, {"a": (0, 0, 0), "b": (20, 20, 20), ".": (255, 0, 0)})
    loud.putpixel((3, 3), (0, 255, 0))
    assert load_ruler(ruler_file()).read(loud) == {"stripe": "upright"}


@pytest.mark.parametrize("seed", range(20))
def test_neither_flat_nor_random_pictures_show_anything(seed: int) -> None:
    ruler = load_ruler(ruler_file())
    flat = Image.new("RGB", (4, 4), (seed, 90, 200))
    assert ruler.read(flat) == {"stripe": UNCLEAR}
    checkered = picture(
        ["ab..", "ba..", "ab..", "ba.."], {"a": (seed, 0, 0), "b": (255, 255, 255), ".": (0, 0, 0)}
    )
    assert ruler.read(checkered) == {"stripe": UNCLEAR}


def test_a_map_with_more_roles_does_not_win_by_having_them() -> None:
    fine = ["ab..", "cd..", "ef..", "gg.."]
    ruler = load_ruler(ruler_file(attributes=stripe_values(upright=[UPRIGHT], fine=[fine])))
    cells = np.random.default_rng(0).normal(0, 8, (4, 4, 3)) + np.array([[60, 190, 0, 0]] * 4)[:, :, None]
    assert ruler.read(Image.fromarray(cells.clip(0, 255).astype(np.uint8))) == {"stripe": "upright"}


def test_cells_count_by_their_median() -> None:
    speckled = picture(UPRIGHT, {"a": (10, 20, 30), "b": (200, 100, 50), ".": (0, 0, 0)}, scale=5)
    speckled.putpixel((0, 0), (255, 255, 255))
    assert reduce_to_grid(speckled, 4)[0, :2].tolist() == [[10, 20, 30], [200, 100, 50]]


def test_a_side_that_is_no_multiple_of_the_grid_uses_every_pixel_once() -> None:
    columns = np.repeat(np.arange(10, dtype=np.uint8)[None, :, None], 10, axis=0).repeat(3, axis=2)
    assert reduce_to_grid(Image.fromarray(columns), 4)[0, :, 0].tolist() == [0.5, 3.0, 5.5, 8.0]


def test_attributes_and_prompts_are_listed() -> None:
    ruler = load_ruler(ruler_file())
    assert ruler.grid == 4
    assert ruler.attributes == {"stripe": ["upright", "level"]}
    assert [(one.prompt, one.asked) for one in ruler.prompts] == [
        ("an upright stripe", {"stripe": "upright"})
    ]


@pytest.mark.parametrize("size", [(3, 3), (8, 4)])
def test_pictures_that_cannot_be_reduced_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RulerError, match="square picture"):
        load_ruler(ruler_file()).read(Image.new("RGB", size))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff", "not a ruler file"),
        (b"[]", "not a ruler file"),
        (ruler_file(version=2), "version"),
        (ruler_file(grid=0), "grid"),
        (ruler_file(surprise=1), "surprise"),
        (ruler_file(attributes={}), "attributes"),
        (ruler_file(attributes=stripe_values(upright=[UPRIGHT])), "values"),
        (ruler_file(attributes=stripe_values(upright=[], level=[LEVEL])), "upright"),
        (ruler_file(attributes=stripe_values(upright=[UPRIGHT], level=[LEVEL[:3]])), "not 4x4"),
        (ruler_file(attributes=stripe_values(upright=[UPRIGHT], level=[["aab."] * 4])), "same cells"),
        (ruler_file(attributes=stripe_values(upright=[UPRIGHT], level=[["aa.."] * 4])), "two roles"),
        (ruler_file(attributes=stripe_values(upright=[["...."] * 4], level=[["...."] * 4])), "two roles"),
        (
            ruler_file(attributes=stripe_values(unclear=[UPRIGHT], level=[LEVEL]), prompts=[]),
            "cannot be a value",
        ),
        (ruler_file(prompts=[{"prompt": "x", "asked": {"stripe": "none"}}]), "cannot measure"),
        (ruler_file(prompts=[{"prompt": "x", "asked": {"colour": "level"}}]), "cannot measure"),
    ],
)
def test_invalid_ruler_files_raise_one_typed_error(data: bytes, said: str) -> None:
    with pytest.raises(RulerError, match=said):
        load_ruler(data)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_newcombe(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(20, 20)
    assert low == pytest.approx(1 - 0.1611, abs=5e-5)
    assert high == 1.0
    narrow, wide = wilson(30, 60, confidence=0.5), wilson(30, 60, confidence=0.99)
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]


@pytest.mark.parametrize(("hits", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0.0), (1, 5, 1.0)])
def test_wilson_refuses_nonsense(hits: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        wilson(hits, n, confidence)
