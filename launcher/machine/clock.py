"""This machine's clock."""

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The real Clock."""

    def monotonic(self) -> float:
        """Return seconds that never go back; a laptop's sleep counts where the system can tell."""
        return time.clock_gettime(_CLOCK)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
