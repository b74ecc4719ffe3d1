"""The launcher's errors: one root, a subclass for each decision a caller makes, an exit code for each."""

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    USAGE = 2
    DATASET = 3
    BUDGET = 4
    TRAINING = 5
    INFRASTRUCTURE = 6
    INCOMPLETE = 7
    LEAKED = 8
    CANCELLED = 9

    @classmethod
    def gravest(cls, codes: Iterable[int]) -> int:
        """Return which of several exit codes counts, 0 for none."""
        given = set(codes)
        return next((code for code in _BY_GRAVITY if code in given), max(given, default=0))


_BY_GRAVITY = (8, 7, 6, 5, 9)


class RetrainError(Exception):
    """A failure that a person can act on.

    `str()` is one sentence that says what happened; `next_step` says what to do. Neither holds a secret.
    """

    exit_code: Exit = Exit.INFRASTRUCTURE

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


class UsageError(RetrainError):
    """Wrong command line or configuration."""

    exit_code = Exit.USAGE


class DatasetError(RetrainError):
    """The data set cannot be trained as it is."""

    exit_code = Exit.DATASET


class BudgetError(RetrainError):
    """The plan does not fit under the cap; nothing was spent."""

    exit_code = Exit.BUDGET


class StorageError(RetrainError):
    """The object store failed or refused."""


class UnreadableRecord(StorageError):
    """A run's record is not what this version reads; another version may."""


class ObjectMissing(StorageError):
    """No object has this key."""


class PreconditionFailed(StorageError):
    """A conditional write lost: somebody else wrote first."""


class PodError(RetrainError):
    """The pod provider failed or refused."""


class CreateRefused(PodError):
    """The provider answered that it made no pod. Any other error of a create leaves that open."""


class CapacityError(CreateRefused):
    """This offer is not to be had now; another may be."""


class AccountRefused(CreateRefused):
    """The provider turns the account away, whatever is asked for: its key or its balance."""


class LeaseHeld(RetrainError):
    """Another launcher works on this run now."""


class DeadlineCame(RetrainError):
    """Something long was broken off because a pod has to be ended now; the next pass goes on with it."""


class Leaked(RetrainError):
    """A pod may still run, and not even a record of that can be written.

    `pods` are meant, name → ids as far as they are known; `on_record` tells whether the run's record names
    them, so that it will tell when they are gone.
    """

    exit_code = Exit.LEAKED

    def __init__(
        self, message: str, *, pods: Mapping[str, Sequence[str]], on_record: bool, next_step: str = ""
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.pods = pods
        self.on_record = on_record


class IntegrityError(StorageError):
    """What came from the store is not what its receipt vouches for."""


class LocalDiskError(RetrainError):
    """This machine's disk is full or a folder cannot be written."""


class FileInUse(RetrainError):
    """Another process of this machine works on this very file now."""
