"""Signals that ask a command to go: all of them end it in order, as Ctrl-C does. Knows no command."""

import signal
import time
from types import FrameType

SHELL_BASE = 128
"""A shell reports a process ended by a signal as this and the signal's number."""


REPEAT_SECONDS = 2.0
"""A signal that comes again within this time says the same thing."""


LATELY_SECONDS = 10.0
"""How long after a signal a failure is taken for its doing."""


class AskedToGo(KeyboardInterrupt):
    """A signal other than Ctrl-C's: SIGTERM, or SIGHUP of a terminal that was closed."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


_raised: tuple[AskedToGo, float] | None = None
"""What was raised last, and when."""


def heed() -> None:
    """Turn SIGTERM and SIGHUP into AskedToGo. What the caller had ignored, as nohup does, stays ignored."""
    global _raised
    _raised = None
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise)


def asked_lately() -> AskedToGo | None:
    """Return the request to go that came a moment ago, if one did.

    A library may wrap what a handler raises in an error of its own, and clearing up may fail in turn.
    """
    asked = _raised
    return asked[0] if asked is not None and time.monotonic() - asked[1] < LATELY_SECONDS else None


def interrupted_code(interrupt: BaseException) -> int:
    """Return the exit code that stands for what interrupted a command: 130 for Ctrl-C."""
    return SHELL_BASE + (interrupt.number if isinstance(interrupt, AskedToGo) else signal.SIGINT)


def _raise(number: int, _: FrameType | None) -> None:
    """Raise, but not again at once: a terminal that closes may say so more than once.

    It does raise again later: the first exception may have come where Python swallows it.
    """
    global _raised
    if _raised is None or time.monotonic() - _raised[1] >= REPEAT_SECONDS:
        _raised = (AskedToGo(number), time.monotonic())
        raise _raised[0]
