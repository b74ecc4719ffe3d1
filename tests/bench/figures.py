"""What a benchmark finds: ratios of measurements that were made side by side, with their spread.

Times of different runs are never compared: machines are noisy, neighbours more so. One figure is the median
over pairs of measurements that directly followed one another, in the order A B B A A B ..., so that a drift
weighs on both sides alike.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One measurement: wall clock, and processor time of the side that was measured (not of the server)."""

    seconds: float
    cpu_seconds: float


Measure = Callable[[], Sample]


@dataclass(frozen=True)
class Side:
    """The median of one side's measurements."""

    name: str
    seconds: float
    cpu_seconds: float

    @classmethod
    def of(cls, name: str, samples: Sequence[Sample]) -> "Side":
        """Sum up the measurements of one side."""
        return cls(
            name,
            statistics.median(sample.seconds for sample in samples),
            statistics.median(sample.cpu_seconds for sample in samples),
        )


@dataclass(frozen=True)
class Figure:
    """One line of the table. `sides` are for judging the ratio; they mean nothing on another machine."""

    group: str
    name: str
    ratio: float
    low: float
    high: float
    n: int
    means: str
    """What the ratio is of, e.g. `speed of s5cmd = 1`."""
    at_least: float | None = None
    at_most: float | None = None
    sides: tuple[Side, ...] = ()
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.at_least is not None:
            return self.ratio >= self.at_least
        if self.at_most is not None:
            return self.ratio <= self.at_most
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the figure in JSON types."""
        return {**asdict(self), "is_met": self.is_met}

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> "Figure":
        """Return what `to_json` wrote."""
        fields = {name: value for name, value in said.items() if name != "is_met"}
        return cls(**{**fields, "sides": tuple(Side(**side) for side in said["sides"])})


def alternating(
    ours: Measure, theirs: Measure, *, pairs: int, warm_up: bool = True
) -> tuple[list[Sample], list[Sample]]:
    """Measure both sides `pairs` times, in the order A B B A A B ...

    With `warm_up` after one round that does not count; without it for what measures its own warm part.
    """
    if warm_up:
        ours()
        theirs()
    a: list[Sample] = []
    b: list[Sample] = []
    for number in range(pairs):
        for side in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            (a if side is ours else b).append(side())
    return a, b


def spread(ratios: Sequence[float]) -> dict[str, Any]:
    """Return the fields of a Figure that say how often something was measured and how much it varied."""
    return {
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "n": len(ratios),
    }


def speed_ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> list[float]:
    """Return how fast ours is beside theirs, pair by pair: above 1 is faster."""
    return [b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True)]


def time_ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> list[float]:
    """Return how long ours takes beside theirs, pair by pair: below 1 is faster."""
    return [a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True)]


def timed(work: Callable[[], object]) -> Sample:
    """Measure a call in this process."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return Sample(time.perf_counter() - began, time.process_time() - cpu)
