"""What the fault matrix went through: its one closing line counts all of its tests."""

from dataclasses import dataclass


@dataclass
class Tally:
    """Sums over one test session."""

    cases: int = 0
    broken: int = 0
    """Cases that broke a promise: also those that left a pod, or told LEAKED, without a reason."""
    told: int = 0
    """Cases in which the run was told to be LEAKED, because no launcher could end or see its pod."""
    overspent: float = 0.0
    """The most above the cap, in US dollars, where a layer could reach the provider in time."""
    overspent_otherwise: float = 0.0
    """The same where none could, or at a price above the offer."""

    def add(self, *, told: bool, overspent: float, bounded: bool) -> None:
        """Count a case that kept every promise; `bounded`: whether one of them bounds its spend."""
        self.cases += 1
        self.told += told
        if bounded:
            self.overspent = max(self.overspent, overspent)
        else:
            self.overspent_otherwise = max(self.overspent_otherwise, overspent)

    def broke(self) -> None:
        """Count a case that did not."""
        self.cases += 1
        self.broken += 1

    def merge(self, other: "Tally") -> None:
        """Add all that another tally counted, that of another process for instance."""
        self.cases += other.cases
        self.broken += other.broken
        self.told += other.told
        self.overspent = max(self.overspent, other.overspent)
        self.overspent_otherwise = max(self.overspent_otherwise, other.overspent_otherwise)

    @property
    def empty(self) -> bool:
        """Whether no case was counted."""
        return self == Tally()

    def line(self) -> str:
        """Return the closing line."""
        return (
            f"fault matrix: {self.cases} cases, {self.broken} broken, {self.told} leaks told and explained,"
            f" worst overspend ${self.overspent:.2f}"
            f" (${self.overspent_otherwise:.2f} with no layer in reach or at a price above the offer)"
        )


TALLY = Tally()
"""Of this process."""
