"""The job's one error root and the decisions that callers make by it. Knows reasons and nothing else."""

from job.contract.reasons import Reason


class JobError(Exception):
    """Work cannot go on. `reason` is for machines, `message` a sentence for a person, without secrets."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class NotStartedError(JobError):
    """What the pod was told cannot be used: nothing was claimed, nothing may be written."""


class SupersededError(JobError):
    """Another pod owns this attempt: write nothing more."""


class AlreadyOverError(JobError):
    """An earlier life of this pod said its last word, or too many were lived: do not work again."""


class TerminatedError(JobError):
    """The machine was asked to go (SIGTERM). Not the attempt's last word: a restarted container resumes."""
