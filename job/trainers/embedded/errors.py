"""How the child says why it cannot go on. Knows the contract's reasons."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from job.contract.reasons import Reason


class TrainingError(Exception):
    """Work cannot go on, for a reason that the child knows. The text is one sentence for a person."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def exhaustion_explained() -> Iterator[None]:
    """Turn a full disk and exhausted memory, as Python and torch report them, into TrainingError."""
    try:
        yield
    except MemoryError as error:
        raise TrainingError(Reason.OUT_OF_MEMORY, "the machine has not enough memory") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise TrainingError(Reason.DISK_FULL, "no space left on the disk") from error
        if error.errno == errno.ENOMEM:
            raise TrainingError(Reason.OUT_OF_MEMORY, "the machine has not enough memory") from error
        raise
    except RuntimeError as error:
        # torch.OutOfMemoryError is a RuntimeError; the CPU allocator raises a plain one.
        text = str(error)
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
            raise TrainingError(Reason.OUT_OF_MEMORY, f"out of memory: {text.splitlines()[0]}") from error
        raise
