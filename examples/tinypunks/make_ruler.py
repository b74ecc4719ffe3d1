"""Writes ruler.json: the templates that measure a portrait's attributes, and the balanced evaluation prompts.

python make_ruler.py [ruler.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import portraits

SEED = 22
PROMPTS_PER_COMBINATION = 8
"""Prompts for each pair of hairstyle and expression: 8 pairs, 64 prompts."""

CHOICES: dict[str, tuple[str, ...]] = {
    "sex": ("lad", "lady"),
    "hairstyle": portraits.HAIRSTYLES,
    "expression": portraits.EXPRESSIONS,
    "eyewear": portraits.EYEWEAR,
    "earrings": portraits.EARRINGS,
    "hat": portraits.HATS,
    "facial_hair": portraits.FACIAL_HAIR,
    "pattern": portraits.PATTERNS,
}
"""The attributes that change which cell shows what; the others only change colours."""


@dataclass(frozen=True)
class Measured:
    """How one attribute is measured."""

    attribute: str
    variants: tuple[str, ...]
    """Other attributes that get a template each, because they show in the same cells."""
    rows: tuple[int, int]
    columns: tuple[int, int]
    minimum_explained: float


MEASURED = (
    Measured("hairstyle", ("pattern",), (0, 24), (0, 24), 0.5),
    Measured("expression", ("facial_hair",), (13, 18), (6, 18), 0.5),
    Measured("eyewear", ("sex",), (7, 13), (6, 18), 0.5),
)


def templates(measured: Measured) -> dict[str, list[list[str]]]:
    """Role maps per value, over the cells that nothing but the attribute and its variants touches."""
    names = (measured.attribute, *measured.variants)
    drawn = {
        fixed: [portraits.roles(one) for one in _portraits(dict(zip(names, fixed, strict=True)))]
        for fixed in itertools.product(*(CHOICES[name] for name in names))
    }
    inside = np.zeros((portraits.GRID, portraits.GRID), dtype=bool)
    inside[slice(*measured.rows), slice(*measured.columns)] = True
    for grids in drawn.values():
        inside &= np.all([grid == grids[0] for grid in grids], axis=0)
    # Cells that show the same role whatever the value (a shirt, a corner) only add noise to the fit.
    inside &= np.any([grids[0] != next(iter(drawn.values()))[0] for grids in drawn.values()], axis=0)
    result: dict[str, list[list[str]]] = {}
    for fixed, grids in drawn.items():
        template = ["".join(row) for row in np.where(inside, grids[0], ".")]
        known = result.setdefault(fixed[0], [])
        if _partition(template) not in [_partition(one) for one in known]:
            known.append(template)
    return result


def _portraits(fixed: dict[str, str]) -> Iterator[portraits.Portrait]:
    """Portraits with these attributes fixed and all combinations of the others."""
    free = [name for name in CHOICES if name not in fixed]
    template = portraits.draw_attributes(random.Random(SEED))
    for values in itertools.product(*(CHOICES[name] for name in free)):
        yield dataclasses.replace(template, **fixed, **dict(zip(free, values, strict=True)))


def _partition(template: list[str]) -> list[int]:
    """The template with letters numbered by first appearance: equal for maps that differ in naming only."""
    seen: dict[str, int] = {}
    return [seen.setdefault(letter, len(seen)) for row in template for letter in row]


def prompts() -> list[dict[str, object]]:
    """Balanced prompts: every hairstyle with every expression equally often, the rest drawn at random."""
    rng = random.Random(SEED)
    result: list[dict[str, object]] = []
    # Grouped, so that prompts picked evenly along the list are balanced too.
    for hairstyle, expression in itertools.product(portraits.HAIRSTYLES, portraits.EXPRESSIONS):
        for _ in range(PROMPTS_PER_COMBINATION):
            portrait = portraits.draw_attributes(rng, hairstyle=hairstyle, expression=expression)
            asked = {one.attribute: getattr(portrait, one.attribute) for one in MEASURED}
            result.append({"prompt": portraits.caption(portrait, taught=True), "asked": asked})
    return result


def ruler_json() -> bytes:
    """The whole ruler file."""
    attributes = {
        one.attribute: {"minimum_explained": one.minimum_explained, "values": templates(one)}
        for one in MEASURED
    }
    ruler = {"version": 1, "grid": portraits.GRID, "attributes": attributes, "prompts": prompts()}
    return (json.dumps(ruler, indent=1) + "\n").encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, nargs="?", default=Path(__file__).with_name("ruler.json"))
    parser.parse_args().output.write_bytes(ruler_json())
