"""A pod's name: whose it is, and when it must be gone. Read by whoever has nothing else to go by.

`retrain-<namespace>-<run_id>-<attempt>-<hard deadline>`, the deadline in whole seconds since 1970. Pure.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

_FORM = re.compile(
    r"retrain-(?P<namespace>[a-z0-9]{1,16})-(?P<run_id>[a-z0-9][a-z0-9-]{0,40})"
    r"-(?P<attempt>[1-9][0-9]{0,3})-(?P<deadline>[1-9][0-9]{9})"
)
"""A run's id may hold hyphens; the two numbers at the end hold none, so a name is read in one way only. Ten
digits are the years 2001 to 2286: nothing else is a deadline.
"""


@dataclass(frozen=True)
class PodName:
    """What a pod's name says."""

    namespace: str
    run_id: str
    attempt: int
    """Counted from 1."""
    hard_deadline: datetime
    """In UTC, to the second."""

    def __str__(self) -> str:
        """Return the name as the provider knows it."""
        deadline = int(self.hard_deadline.timestamp())
        return f"retrain-{self.namespace}-{self.run_id}-{self.attempt}-{deadline}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a pod's name; None for every other one, which is a stranger's then."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        return cls(
            namespace=found["namespace"],
            run_id=found["run_id"],
            attempt=int(found["attempt"]),
            hard_deadline=datetime.fromtimestamp(int(found["deadline"]), UTC),
        )
