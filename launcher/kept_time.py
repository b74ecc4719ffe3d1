"""The store's time between its answers. Knows the clock as a port."""

from datetime import datetime, timedelta

from launcher.ports import Clock


class KeptTime:
    """The store's time as it last told it, kept going by this machine's monotonic clock.

    Never ahead of the store: its word is as old as the way here, and a clock that stood still while the
    machine slept falls behind. Whoever needs to know that at least so much time has passed may rely on it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: tuple[datetime, float] | None = None

    def hear(self, now: datetime) -> float:
        """Remember what the store just said.

        Returns the seconds by which it went ahead of this machine's clock since it last said it, 0 the first
        time.
        """
        expected = self.now() or now
        self._heard = (now, self._clock.monotonic())
        return (now - expected).total_seconds()

    def now(self) -> datetime | None:
        """Return what time it is at the store at least, None before it ever said."""
        if self._heard is None:
            return None
        told, at = self._heard
        return told + timedelta(seconds=self._clock.monotonic() - at)
