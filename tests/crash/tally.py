"""What the crash suite went through and what it lost: its one closing line counts all of its tests."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["simulated", "real"]


@dataclass
class Tally:
    """Sums over one test session. Lost and leaked are counted by the tests before they fail on them."""

    simulated: int = 0
    """Cases with a fake clock, store and provider."""
    real: int = 0
    """Cases with real processes and real SIGKILLs."""
    lost: int = 0
    """Checkpoints that had a receipt, did not come home, and that the run did not name."""
    leaked: int = 0
    """Pods that were left over by a run that said nothing of them."""

    seed: int | None = None
    """From which the cases with real kills were sampled, where any were."""

    def add(self, *, kind: Kind, cases: int, lost: int = 0, leaked: int = 0) -> None:
        """Count some cases of a kind, and what was lost and left over in them."""
        if kind == "simulated":
            self.simulated += cases
        else:
            self.real += cases
        self.lost += lost
        self.leaked += leaked

    def merge(self, other: "Tally") -> None:
        """Add all that another tally counted, that of another process for instance."""
        self.simulated += other.simulated
        self.real += other.real
        self.lost += other.lost
        self.leaked += other.leaked
        self.seed = other.seed if self.seed is None else self.seed

    @property
    def empty(self) -> bool:
        """Whether no case was counted."""
        return self == Tally()

    def line(self) -> str:
        """Return the closing line."""
        return (
            f"crash suite: {self.simulated} simulated cases and {self.real} with real kills,"
            f" {self.lost} lost checkpoints, {self.leaked} leaked pods"
        )


TALLY = Tally()
"""Of this process."""
