"""The job's clocks: `stop_at` asks it to stop, the hard deadline ends everything whatever hangs.

Knows the clock and functions to call. How a pod ends itself is the composition root's choice (`end`): it is
called once, on the watchdog's own thread, after the child processes are gone, and must not return.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from job.clock import Clock

TICK_SECONDS = 0.25
"""A thread that slept through a laptop's sleep must notice soon after it."""


class Watchdog:
    """A thread that waits for the deadline. Deadlines move earlier only."""

    def __init__(
        self, clock: Clock, deadline: datetime, *, kill_children: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._deadline = deadline
        self._kill_children = kill_children
        self._end = end
        self._stop_at: datetime | None = None
        self._stop: Callable[[], None] | None = None
        self._disarmed = threading.Event()

    def arm(self) -> None:
        """Start watching."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def disarm(self) -> None:
        """Stop watching: the work is over and the process is about to end."""
        self._disarmed.set()

    def no_later_than(self, deadline: datetime) -> None:
        """Bring the deadline forward; a later one changes nothing."""
        self._deadline = min(self._deadline, deadline)

    def at_stop(self, moment: datetime, stop: Callable[[], None]) -> None:
        """Call `stop` once at `moment`."""
        self._stop_at, self._stop = moment, stop

    @property
    def seconds_left(self) -> float:
        """Seconds until the hard deadline."""
        return self._clock.seconds_until(self._deadline)

    def _watch(self) -> None:
        while not self._disarmed.is_set():
            # What fails for a moment, for want of memory say, must not end the watch.
            with suppress(Exception):
                if self._is_due():
                    break
            self._disarmed.wait(TICK_SECONDS)
        else:
            return
        try:
            self._kill_children()
        finally:
            self._end()

    def _is_due(self) -> bool:
        """Ask for the stop once it is time; return whether the deadline has come."""
        if self._stop is not None and self._stop_at is not None and self._clock.now() >= self._stop_at:
            stop, self._stop = self._stop, None
            stop()
        return self.seconds_left <= 0
