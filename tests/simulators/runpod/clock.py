"""Time as the simulator sees it: any function that returns an aware moment and never goes back."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Now = Callable[[], datetime]
START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, at: datetime = START) -> None:
        self._at = at
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        """Return the time."""
        return self._at

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if seconds < 0:
            raise ValueError("time does not go back")
        with self._lock:
            self._at += timedelta(seconds=seconds)


def real_now() -> datetime:
    """Return this machine's time."""
    return datetime.now(UTC)
