"""Time as the job counts it: never earlier than any of its sources says. Knows the system's clocks only."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

STORE_TOLERANCE_SECONDS = 5
"""A `Date` header has whole seconds and has travelled; smaller differences say nothing."""


class Clock:
    """UTC that moves forward only, so that a deadline can come earlier but never later.

    The later of the wall clock (which counts a laptop's sleep) and the monotonic clock (which nobody sets
    back), both moved ahead when the store's `Date` headers say that this machine's clock is behind.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._ticks = ticks
        self._start = wall() - ticks()
        self._ahead = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the current time in UTC."""
        seconds = max(self._wall(), self._start + self._ticks()) + self._ahead
        return datetime.fromtimestamp(seconds, UTC)

    def seconds_until(self, moment: datetime) -> float:
        """Return the seconds that are left until `moment`; negative once it has passed."""
        return (moment - self.now()).total_seconds()

    def store_says(self, moment: datetime) -> None:
        """Take note of the store's time: a clock that is behind it is moved ahead."""
        with self._lock:
            behind = self.seconds_until(moment)
            if behind > STORE_TOLERANCE_SECONDS:
                self._ahead += behind
