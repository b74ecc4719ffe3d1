"""Which cases there are: every point at which a launcher may be killed, under every fault."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.matrix.faults import FAULTS, Fault
from tests.matrix.layers import ALL, Layer
from tests.matrix.night import AWAY, Night
from tests.matrix.tally import TALLY

MEMORY = Path("/dev/shm")
LONG = 160
"""Points of a run that are many."""


@dataclass(frozen=True)
class Case:
    """One night: what goes wrong, where the first launcher dies, which layers there are."""

    fault: Fault
    dies_at: int | None = None
    """Number of a point, from 1; None for a launcher that lives."""
    away: int = AWAY[0]
    layers: frozenset[Layer] = ALL

    def __str__(self) -> str:
        """Return what `by_name` reads."""
        return f"{'+'.join(sorted(self.layers))}/{self.fault.name}/{self.dies_at or 'lives'}/{self.away}"

    def play(self) -> Night:
        """Play it, check every promise, and return the night when it is over."""
        random.seed(str(self))  # what waits are drawn from
        folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        try:
            night = Night(folder, self.fault, layers=self.layers, away=self.away)
            night.play(dies_at=self.dies_at)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        judge = night.judge
        bounded = bool(night.in_reach) and self.fault.dearer == 1.0
        TALLY.add(told=judge.told_leaked > 0, overspent=judge.overspent, bounded=bounded)
        return night


def by_name(text: str) -> Case:
    """Return the case of this name."""
    layers, name, dies_at, away = text.split("/")
    fault = next(fault for fault in FAULTS if fault.name == name)
    number = None if dies_at == "lives" else int(dies_at)
    return Case(fault, number, int(away), frozenset(map(Layer, layers.split("+"))))


def kills(
    fault: Fault, *, stride: int, first: int, layers: frozenset[Layer] = ALL
) -> Iterator[tuple[Case, str]]:
    """Yield the cases of a fault, each with the words for its point: a launcher that lives shows which.

    Every `stride`-th point, of long runs fewer, beginning with number `first`. For how long nobody comes
    afterwards goes round, or is all that there is when all points are played; where launchers are the only
    layer, they come back at once.
    """
    points = Case(fault, layers=layers).play().points
    if stride > 1:
        stride *= 1 + len(points) // LONG
    alone = layers == {Layer.LOOP}
    for number in range(1 + first % stride, len(points) + 1, stride):
        one = AWAY[(number // stride + first) % len(AWAY)]
        for away in AWAY[:1] if alone else AWAY if stride == 1 else (one,):
            yield Case(fault, number, away, layers), points[number - 1]
