"""Signals that ask a command to go: all of them end it in order, as Ctrl-C does. Knows no command."""

import signal
import time
from collections.abc import Callable
from types import FrameType

SHELL_BASE = 128
"""A shell reports a process ended by a signal as this and the signal's number."""


REPEAT_SECONDS = 2.0
"""A signal that comes again within this time says the same thing."""


class AskedToGo(KeyboardInterrupt):
    """A signal other than Ctrl-C's: SIGTERM, or SIGHUP of a terminal that was closed."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def heed() -> None:
    """Turn SIGTERM and SIGHUP into AskedToGo. What the caller had ignored, as nohup does, stays ignored."""
    handler = _raiser()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, handler)


def interrupted_code(interrupt: BaseException) -> int:
    """Return the exit code that stands for what interrupted a command: 130 for Ctrl-C."""
    return SHELL_BASE + (interrupt.number if isinstance(interrupt, AskedToGo) else signal.SIGINT)


def _raiser() -> Callable[[int, FrameType | None], None]:
    """Return a handler that raises, but not again at once: a terminal that closes may say so more than once.

    It does raise again later: the first exception may have come where Python swallows it.
    """
    raised_at = -REPEAT_SECONDS

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal raised_at
        if time.monotonic() - raised_at >= REPEAT_SECONDS:
            raised_at = time.monotonic()
            raise AskedToGo(number)

    return handle
