"""Counts what images show against what their prompts asked for. Knows the ruler and the contract, draws
nothing.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from PIL import Image

from job.contract.manifest import SamplePrompt
from job.contract.records import Score
from job.evaluate.intervals import wilson


class Reads(Protocol):
    """What is needed of a ruler."""

    @property
    def attributes(self) -> dict[str, list[str]]:
        """Every attribute and the values it can take."""
        ...

    def read(self, image: Image.Image) -> dict[str, str]:
        """Say which value of each attribute a picture shows."""
        ...


def read_images(ruler: Reads, folder: Path, prompts: Iterable[SamplePrompt]) -> dict[str, dict[str, str]]:
    """Return prompt name → what its image shows. Images are called after their prompt."""
    readings = {}
    for prompt in prompts:
        with Image.open(folder / f"{prompt.name}.png") as image:
            readings[prompt.name] = ruler.read(image)
    return readings


def score(
    attributes: Iterable[str], prompts: Iterable[SamplePrompt], readings: dict[str, dict[str, str]]
) -> dict[str, Score]:
    """Return for each attribute how often what was asked is what was read, over the prompts that ask
    for it.
    """
    asked: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    known = set(attributes)
    for prompt in prompts:
        for attribute, value in prompt.asked.items():
            if attribute in known:
                asked[attribute] += 1
                hits[attribute] += readings[prompt.name].get(attribute) == value
    scores = {}
    for attribute in sorted(asked):
        low, high = wilson(hits[attribute], asked[attribute])
        scores[attribute] = Score(n=asked[attribute], hits=hits[attribute], low=low, high=high)
    return scores
