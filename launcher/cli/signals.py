"""Signals that ask a command to go: all of them end it in order, as Ctrl-C does. Knows no command."""

import signal
from types import FrameType
from typing import NoReturn

SHELL_BASE = 128
"""A shell reports a process ended by a signal as this and the signal's number."""


class AskedToGo(KeyboardInterrupt):
    """A signal other than Ctrl-C's: SIGTERM, or SIGHUP of a terminal that was closed."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def heed() -> None:
    """Turn SIGTERM and SIGHUP into AskedToGo. What the caller had ignored, as nohup does, stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise)


def interrupted_code(interrupt: BaseException) -> int:
    """Return the exit code that stands for what interrupted a command: 130 for Ctrl-C."""
    return SHELL_BASE + (interrupt.number if isinstance(interrupt, AskedToGo) else signal.SIGINT)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    # A terminal that closes may say so more than once; the first time is enough to leave in order.
    signal.signal(number, signal.SIG_IGN)
    raise AskedToGo(number)
