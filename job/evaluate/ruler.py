"""Measures which attributes a picture shows, by fitting the drawing program's own templates to it.

A template is a role map: it says which cells of the grid belong together ("hair", "skin", ...), not what
colour they have. A picture fits a map well when every role is nearly one colour, so the reading does not
depend on the palette. Per attribute the value of the best-fitting map is what the picture shows; when even
that map leaves too much unexplained, the reading is `UNCLEAR`, which counts as no value at all.

This module knows numpy, pictures and ruler files. It knows no trainer, no model and no particular example.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

UNCLEAR = "unclear"
"""Reading of a picture that no value's template fits well enough."""

OUTSIDE = "."
"""Template letter of cells that do not take part."""


class RulerError(Exception):
    """The ruler file is invalid, or the picture cannot be reduced to the ruler's grid."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _AttributeFile(_Strict):
    minimum_explained: Annotated[float, Field(ge=0, lt=1)]
    values: Annotated[dict[str, Annotated[list[list[str]], Field(min_length=1)]], Field(min_length=2)]


class RulerPrompt(_Strict):
    """One evaluation prompt and what a picture drawn from it ought to show."""

    prompt: str
    asked: dict[str, str]


class _RulerFile(_Strict):
    version: Annotated[int, Field(ge=1, le=1)]
    grid: Annotated[int, Field(ge=2, le=512)]
    attributes: Annotated[dict[str, _AttributeFile], Field(min_length=1)]
    prompts: list[RulerPrompt]


@dataclass(frozen=True)
class _Attribute:
    """Templates of one attribute, ready to be fitted together."""

    cells: npt.NDArray[np.intp]
    """Flat indices of the cells that take part: the same for every map, so that fits can be compared."""
    labels: tuple[str, ...]
    """The value that each map belongs to."""
    averages: npt.NDArray[np.float64]
    """maps x cells x cells: replaces each cell by the mean of its role."""
    freedom: npt.NDArray[np.float64]
    """Per map: cells minus roles, so that a map with more roles does not win by having them."""
    minimum_explained: float

    def read(self, flat: npt.NDArray[np.float64]) -> str:
        """The value shown by a picture given as cells x channels."""
        seen = flat[self.cells]
        total = float(np.square(seen - seen.mean(axis=0)).sum()) / (len(self.cells) - 1)
        if total == 0:
            return UNCLEAR
        left = np.square(seen - self.averages @ seen).sum(axis=(1, 2)) / self.freedom
        best = int(left.argmin())
        return self.labels[best] if 1 - left[best] / total >= self.minimum_explained else UNCLEAR


@dataclass(frozen=True)
class Ruler:
    """Reads attributes off pictures; made by `load_ruler`."""

    grid: int
    """Cells per side."""
    attributes: dict[str, list[str]]
    """Every attribute and the values it can take."""
    prompts: tuple[RulerPrompt, ...]
    """Evaluation prompts, balanced over the values they ask for."""
    _fitted: dict[str, _Attribute]

    def read(self, image: Image.Image) -> dict[str, str]:
        """What the picture shows: for each attribute one of its values, or `UNCLEAR`.

        Any square picture at least one pixel per cell is taken; each cell counts by the median of its pixels.
        """
        flat = reduce_to_grid(image, self.grid).reshape(-1, 3)
        return {name: attribute.read(flat) for name, attribute in self._fitted.items()}


def reduce_to_grid(image: Image.Image, grid: int) -> npt.NDArray[np.float64]:
    """grid x grid x 3 medians of a picture's cells; cell i of s pixels starts at floor(i * s / grid)."""
    if image.width != image.height or image.width < grid:
        raise RulerError(
            f"a square picture of at least {grid} pixels is needed, got {image.width}x{image.height}"
        )
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    if image.width == grid:
        return pixels
    edges = [index * image.width // grid for index in range(grid + 1)]
    spans = [slice(start, stop) for start, stop in pairwise(edges)]
    return np.array([[np.median(pixels[rows, columns], axis=(0, 1)) for columns in spans] for rows in spans])


def load_ruler(data: bytes) -> Ruler:
    """Reads and checks a ruler file; raises `RulerError` with every problem of the first kind found."""
    try:
        parsed = _RulerFile.model_validate_json(data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise RulerError(f"not a ruler file: {problems}") from error
    attributes = {name: list(one.values) for name, one in parsed.attributes.items()}
    _check_prompts(parsed.prompts, attributes)
    fitted = {name: _fit(name, one, parsed.grid) for name, one in parsed.attributes.items()}
    return Ruler(grid=parsed.grid, attributes=attributes, prompts=tuple(parsed.prompts), _fitted=fitted)


def _check_prompts(prompts: list[RulerPrompt], attributes: dict[str, list[str]]) -> None:
    for one in prompts:
        for name, value in one.asked.items():
            if value not in attributes.get(name, ()):
                raise RulerError(
                    f"prompt {one.prompt!r} asks for {name}={value}, which the ruler cannot measure"
                )


def _fit(name: str, attribute: _AttributeFile, grid: int) -> _Attribute:
    if UNCLEAR in attribute.values:
        raise RulerError(f"{name}: {UNCLEAR!r} cannot be a value")
    labels: list[str] = []
    maps: list[npt.NDArray[np.str_]] = []
    for value, templates in attribute.values.items():
        for rows in templates:
            if len(rows) != grid or any(len(row) != grid for row in rows):
                raise RulerError(f"{name}={value}: a template is not {grid}x{grid}")
            labels.append(value)
            maps.append(np.array([letter for row in rows for letter in row]))
    inside = maps[0] != OUTSIDE
    if any(not np.array_equal(one != OUTSIDE, inside) for one in maps):
        raise RulerError(f"{name}: its templates do not cover the same cells")
    cells = np.flatnonzero(inside)
    partitions = [np.unique(one[cells], return_inverse=True)[1] for one in maps]
    counts = np.array([partition.max(initial=-1) + 1 for partition in partitions])
    if len(cells) == 0 or any(not 2 <= count < len(cells) for count in counts):
        raise RulerError(f"{name}: every template needs at least two roles, and more cells than roles")
    return _Attribute(
        cells=cells,
        labels=tuple(labels),
        averages=np.stack([_averaging(partition) for partition in partitions]),
        freedom=(len(cells) - counts).astype(np.float64),
        minimum_explained=attribute.minimum_explained,
    )


def _averaging(partition: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    same = (partition[:, None] == partition[None, :]).astype(np.float64)
    averaging: npt.NDArray[np.float64] = same / same.sum(axis=1, keepdims=True)
    return averaging
