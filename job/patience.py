"""How long to keep trying, and the one way to try again. Knows transfer errors, no transfers."""

import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, wait_random_exponential

from job.contract.reasons import Reason
from job.errors import JobError

T = TypeVar("T")
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 20
REFUSALS = 6
"""A refusal is seldom temporary (a policy on its way, a clock): a few tries tell."""
_SLICE_SECONDS = 0.25


class TransferError(JobError):
    """A transfer failed. The message names the object, never its URL."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.STORAGE_FAILED, message)


class TransientError(TransferError):
    """Worth trying again: network trouble, a busy store."""


class DeniedError(TransferError):
    """The store refused: the link expired or does not allow this."""


class MissingError(TransferError):
    """No such object."""


class ExistsError(TransferError):
    """A create-only PUT found the object there already."""


class Stop:
    """Whether and why to stop working early. The first request counts.

    No locks: a signal handler interrupts the main thread anywhere, inside a lock of its own too.
    """

    def __init__(self) -> None:
        self._error: JobError | None = None

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._error is not None

    def request(self, error: JobError) -> None:
        """Ask for an end of work because of `error`."""
        if self._error is None:
            self._error = error

    def check(self) -> None:
        """Raise what was asked for, if anything was."""
        if self._error is not None:
            raise self._error


class Patience:
    """Tells how long something may still be tried; asked anew each time, since time can become shorter."""

    def __init__(self, seconds_left: Callable[[], float], stop: Stop | None = None) -> None:
        self._seconds_left = seconds_left
        self._stop = stop

    @property
    def over(self) -> bool:
        """Whether to give up."""
        return self.seconds_left <= 0

    @property
    def seconds_left(self) -> float:
        """Seconds that may still be spent; 0 once a stop was asked for."""
        if self._stop is not None and self._stop.requested:
            return 0
        return self._seconds_left()

    def check(self) -> None:
        """Raise the stop that was asked for, if any."""
        if self._stop is not None:
            self._stop.check()

    def sleep(self, seconds: float) -> None:
        """Sleep, but not past the end of patience."""
        while seconds > 0 and not self.over:
            time.sleep(min(seconds, _SLICE_SECONDS))
            seconds -= _SLICE_SECONDS


def persist(action: Callable[[], T], patience: Patience, *, refusals: int = REFUSALS) -> T:
    """Call `action` until it succeeds. Transient errors are outlived, refusals tried `refusals` times.

    Raises the last error when patience ends, and at once anything that is no TransferError. A stop that was
    asked for is raised instead of the transfer's error.
    """
    refused = 0

    def again(state: RetryCallState) -> bool:
        nonlocal refused
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, DeniedError | MissingError):
            refused += 1
            return refused < refusals
        return isinstance(error, TransientError)

    retrying = Retrying(
        retry=again,
        stop=lambda _: patience.over,
        wait=wait_random_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS),
        sleep=patience.sleep,
        reraise=True,
    )
    try:
        return retrying(action)
    except TransferError:
        patience.check()
        raise
