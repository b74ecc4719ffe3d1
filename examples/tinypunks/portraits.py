"""Draws 24x24 pixel-art portraits of tiny punks and writes their captions.

A portrait is drawn in two steps. `roles` lays out *what* each cell is (background, hair, teeth, ...) from
the attributes alone; `paint` gives every role a colour. The ruler (make_ruler.py) uses the first step only,
so it measures shapes and never depends on a palette.

The drawings are made to be learnable by a very small model in minutes: one fixed face, a mouth eight cells
wide, hairstyles that differ in outline as well as texture and that stay visible under a hat, and words that
are not shared between attributes (no "brown hair" next to "brown skin").
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

GRID = 24
"""Cells per side; one cell is one pixel of a native image."""

PREFIX = "pixel art, 24x24, portrait of tiny punk"

SKINS = {
    "pale skin": (245, 214, 190),
    "tan skin": (216, 160, 112),
    "dark skin": (140, 90, 60),
    "olive skin": (172, 176, 112),
}
HAIR_COLOURS = {
    "black hair": (34, 30, 40),
    "blonde hair": (240, 208, 72),
    "ginger hair": (206, 84, 24),
    "white hair": (240, 240, 248),
    "pink hair": (236, 72, 160),
}
HAIRSTYLES = ("curly", "wavy", "straight", "braided")
EXPRESSIONS = ("smiling", "neutral")
EYEWEAR = ("none", "glasses", "sunglasses")
EARRINGS = ("none", "gold earrings")
HATS = ("none", "cap", "beanie")
FACIAL_HAIR = ("none", "stubble", "beard")
BACKGROUNDS = {
    "blue background": (56, 112, 208),
    "green background": (64, 152, 72),
    "purple background": (116, 64, 160),
    "cyan background": (72, 200, 216),
    "red background": (176, 40, 48),
}
PATTERNS = ("solid", "split", "checkered")
SHIRTS = {"teal shirt": (24, 136, 136), "khaki shirt": (160, 144, 88), "navy shirt": (36, 48, 104)}

TAUGHT = ("hairstyle", "expression")
"""Attributes that the dataset's captions name and the base model's captions never do."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Portrait:
    """The attributes of one portrait; every field is a key or member of the tables above."""

    sex: str
    skin: str
    hair_colour: str
    hairstyle: str
    expression: str
    eyewear: str
    earrings: str
    hat: str
    facial_hair: str
    background: str
    pattern: str
    shirt: str


def draw_attributes(
    rng: random.Random, *, hairstyle: str | None = None, expression: str | None = None
) -> Portrait:
    """A random portrait; the two taught attributes are independent of everything else."""
    sex = rng.choice(("lad", "lady"))
    return Portrait(
        sex=sex,
        skin=rng.choice(list(SKINS)),
        hair_colour=rng.choice(list(HAIR_COLOURS)),
        hairstyle=hairstyle or rng.choice(HAIRSTYLES),
        expression=expression or rng.choice(EXPRESSIONS),
        eyewear=rng.choices(EYEWEAR, weights=(2, 1, 1))[0],
        earrings=rng.choices(EARRINGS, weights=(2, 1))[0],
        hat=rng.choices(HATS, weights=(4, 1, 1))[0],
        facial_hair=rng.choices(FACIAL_HAIR, weights=(3, 1, 1))[0] if sex == "lad" else "none",
        background=rng.choice(list(BACKGROUNDS)),
        pattern=rng.choices(PATTERNS, weights=(2, 1, 1))[0],
        shirt=rng.choice(list(SHIRTS)),
    )


def phrases(portrait: Portrait, *, taught: bool) -> list[str]:
    """Caption phrases after the prefix; without `taught`, hairstyle and expression are left out."""
    result = [portrait.hair_colour]
    if taught:
        result += [f"{portrait.hairstyle} hair", f"{portrait.expression} mouth"]
    result.append(portrait.skin)
    if portrait.eyewear != "none":
        result.append(f"wearing {portrait.eyewear}")
    if portrait.earrings != "none":
        result.append(f"wearing {portrait.earrings}")
    if portrait.hat != "none":
        result.append(f"wearing {portrait.hat}")
    if portrait.facial_hair != "none":
        result.append(portrait.facial_hair)
    result += [portrait.shirt, portrait.background, f"{portrait.pattern} background"]
    return result


def caption(portrait: Portrait, *, taught: bool) -> str:
    """The whole caption, in the style of the user's own: fixed prefix, then comma-separated phrases."""
    return join(portrait.sex, phrases(portrait, taught=taught))


def join(sex: str, listed: Iterable[str]) -> str:
    """Prefix and phrases as one caption."""
    return ", ".join([f"{PREFIX} {sex}", *listed])


def vocabulary() -> list[str]:
    """Every word any caption can contain, sorted; commas are words of their own in the tokenizer."""
    texts = [join(sex, ()) for sex in ("lad", "lady")]
    texts += [*SKINS, *HAIR_COLOURS, *BACKGROUNDS, *SHIRTS, *EARRINGS[1:], *FACIAL_HAIR[1:]]
    texts += [f"wearing {item}" for item in (*EYEWEAR[1:], *HATS[1:])]
    texts += [f"{style} hair" for style in HAIRSTYLES] + [f"{mood} mouth" for mood in EXPRESSIONS]
    texts += [f"{pattern} background" for pattern in PATTERNS]
    return sorted({word for text in texts for word in text.replace(",", " ").split()})


def roles(portrait: Portrait) -> np.ndarray:
    """What each cell shows, as a 24x24 array of one-letter roles (the letters are listed in `palette`)."""
    grid = np.full((GRID, GRID), "a", dtype="<U1")
    rows, columns = np.indices((GRID, GRID))
    if portrait.pattern == "split":
        grid[columns >= GRID // 2] = "b"
    elif portrait.pattern == "checkered":
        grid[(rows // 4 + columns // 4) % 2 == 1] = "b"
    _shirt(grid, portrait.sex)
    _hair(grid, portrait.hairstyle)
    _face(grid, portrait)
    _fringe(grid, portrait.hairstyle)
    _mouth(grid, portrait.expression)
    _eyes(grid, portrait)
    if portrait.earrings != "none":
        grid[12:14, 5] = grid[12:14, 18] = "g"
    _hat(grid, portrait.hat)
    return grid


def _shirt(grid: np.ndarray, sex: str) -> None:
    inset = 3 if sex == "lad" else 5
    grid[21:, inset : GRID - inset] = "c"
    grid[20, inset + 2 : GRID - inset - 2] = "c"


def _hair(grid: np.ndarray, style: str) -> None:
    """The hair behind and beside the face. Symmetric, and two tones ("h" and "i") in a texture of its own."""
    for y in range(GRID):
        for x in range(GRID // 2):  # x counts from the outer edge, on both sides
            tone = _hair_tone(style, x, y)
            if tone:
                grid[y, x] = grid[y, GRID - 1 - x] = tone


def _hair_tone(style: str, x: int, y: int) -> str:
    if style == "curly":  # a round cloud of 2x2 dots
        inside = (x - 11.5) ** 2 / 12.4**2 + (y - 7.5) ** 2 / 8.4**2 <= 1
        return ("h" if (x // 2 + y // 2) % 2 else "i") if inside else ""
    if style == "wavy":  # horizontal bands that swing in and out
        edge = 3 if (y // 2) % 2 else 1
        return ("h" if (y // 2) % 2 else "i") if 2 <= y <= 17 and x >= edge else ""
    if style == "straight":  # curtains down to the lower edge, vertical strands
        if y < 2 or x < 3 or (y == 2 and x < 5) or (y > 18 and x > 6):
            return ""
        return "i" if x % 3 == 1 else "h"
    if y in (3, 4):  # braided: flat on the head, two ropes hanging away from the face
        return "h" if x >= 5 else ""
    if 5 <= y <= 8:
        return "h" if 4 <= x <= 5 else ""
    if 9 <= y <= 23:
        link = (y - 9) % 3
        return ("i" if x in (2, 3) else "") if link == 2 else ("h" if 1 <= x <= 4 else "")
    return ""


def _face(grid: np.ndarray, portrait: Portrait) -> None:
    grid[5:18, 6:18] = "s"
    grid[18, 7:17] = "s"
    grid[19:21, 10:14] = "t"
    grid[12, 11:13] = "t"
    if portrait.facial_hair != "none":
        letter = "u" if portrait.facial_hair == "stubble" else "v"
        grid[13:18, 6:18] = letter
        grid[18, 7:17] = letter


def _fringe(grid: np.ndarray, style: str) -> None:
    if style == "curly":
        grid[5, 6:18] = "h"
        grid[6, [6, 7, 10, 11, 14, 15]] = "i"
    elif style == "wavy":
        grid[5, 6:15] = "h"
        grid[6, 6:10] = "i"
    elif style == "straight":
        grid[5:7, 6:18] = "h"
        grid[5:7, 7:18:3] = "i"


def _mouth(grid: np.ndarray, expression: str) -> None:
    if expression == "smiling":
        grid[14:16, [8, 15]] = "m"
        grid[15, 9:15] = "w"
        grid[16, 9:15] = "m"
        grid[16, 10:14] = "w"
        grid[17, 10:14] = "m"
    else:
        grid[15, 8:16] = "m"
        grid[16, 9:15] = "l"


def _eyes(grid: np.ndarray, portrait: Portrait) -> None:
    for left, pupil in ((8, 9), (14, 14)):
        grid[9:11, left : left + 2] = "e"
        grid[9:11, pupil] = "p"
        if portrait.sex == "lady":
            grid[8, left - 1 : left + 3] = "k"
        else:
            grid[8, left : left + 2] = "k"
    if portrait.eyewear == "glasses":
        for left in (7, 13):
            grid[8:12, left : left + 4] = np.where(np.isin(grid[8:12, left : left + 4], ("e", "p")), "e", "f")
            grid[9:11, left + 1 : left + 3] = "o"
        grid[9, 11:13] = "f"
    elif portrait.eyewear == "sunglasses":
        grid[8:12, 7:11] = grid[8:12, 13:17] = "f"
        grid[8, 6:18] = "f"


def _hat(grid: np.ndarray, hat: str) -> None:
    if hat == "cap":
        grid[2:5, 6:18] = "q"
        grid[5, 5:22] = "r"
    elif hat == "beanie":
        grid[1:4, 6:18] = "x"
        grid[4:6, 5:19] = "y"


def shade(colour: Colour, factor: float) -> Colour:
    """The same hue, darker (factor below 1) or lighter."""
    return (
        min(255, round(colour[0] * factor)),
        min(255, round(colour[1] * factor)),
        min(255, round(colour[2] * factor)),
    )


def blend(first: Colour, second: Colour) -> Colour:
    """The colour half way between two."""
    return ((first[0] + second[0]) // 2, (first[1] + second[1]) // 2, (first[2] + second[2]) // 2)


def palette(portrait: Portrait) -> dict[str, Colour]:
    """The colour of every role in this portrait."""
    skin, hair = SKINS[portrait.skin], HAIR_COLOURS[portrait.hair_colour]
    background, shirt = BACKGROUNDS[portrait.background], SHIRTS[portrait.shirt]
    dark_hair = shade(hair, 0.62) if sum(hair) > 150 else (84, 80, 96)
    lips = (200, 40, 72) if portrait.sex == "lady" else shade(skin, 0.75)
    return {
        "a": background, "b": shade(background, 0.8), "c": shirt,
        "h": hair, "i": dark_hair,
        "s": skin, "t": shade(skin, 0.82), "u": shade(skin, 0.68), "v": blend(shade(skin, 0.4), (40, 28, 28)),
        "m": (24, 8, 16), "w": (255, 255, 255), "l": lips,
        "e": (250, 250, 250), "p": (16, 16, 32), "k": shade(skin, 0.4),
        "f": (16, 16, 20), "o": (176, 216, 240), "g": (255, 200, 24),
        "q": (216, 36, 36), "r": (150, 20, 24), "x": (32, 72, 160), "y": (20, 44, 104),
    }  # fmt: skip


def paint(portrait: Portrait) -> np.ndarray:
    """The portrait as a 24x24x3 array of uint8."""
    laid_out = roles(portrait)
    image = np.zeros((GRID, GRID, 3), dtype=np.uint8)
    for letter, colour in palette(portrait).items():
        image[laid_out == letter] = colour
    return image


def image(portrait: Portrait) -> Image.Image:
    """The portrait as a native 24x24 RGB image."""
    return Image.fromarray(paint(portrait), "RGB")


def contact_sheet(images: Iterable[Image.Image], *, columns: int, scale: int = 6) -> Image.Image:
    """Images side by side, enlarged by whole cells, for looking at."""
    tiles = [tile.resize((GRID * scale, GRID * scale), Image.Resampling.NEAREST) for tile in images]
    step = GRID * scale + 4
    sheet = Image.new("RGB", (columns * step, -(-len(tiles) // columns) * step), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * step, index // columns * step))
    return sheet
