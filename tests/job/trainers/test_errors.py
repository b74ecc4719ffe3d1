"""Exhaustion has a reason, however Python and torch spell it."""

import errno

import pytest

from job.contract.reasons import Reason
from job.trainers.embedded.errors import TrainingError, exhaustion_explained


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), Reason.DISK_FULL),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Reason.OUT_OF_MEMORY),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), Reason.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), Reason.OUT_OF_MEMORY),
    ],
)
def test_exhaustion_is_told_apart(error: Exception, reason: Reason) -> None:
    with pytest.raises(TrainingError) as caught, exhaustion_explained():
        raise error
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "bad disk"), RuntimeError("shapes differ"), KeyError("x")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, exhaustion_explained():
        raise error
    assert caught.value is error


@pytest.mark.slow
def test_torch_says_what_is_expected_of_it() -> None:
    import torch

    assert torch.OutOfMemoryError.__name__ == OutOfMemoryError.__name__
    with pytest.raises(TrainingError) as caught, exhaustion_explained():
        torch.empty(1 << 50)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
