"""Exit codes of the job: how its work ended. Knows reasons and nothing else.

They are the main process's own, but at RunPod, where it stays until the pod is gone: there only 143 is seen
as a code, and of the others the sentence in the container's log.

| code | meaning |
|---|---|
| 0 | finished: everything is in the bucket |
| 1 | the job itself is broken: an internal error before anything could be said |
| 2 | not started: the environment or the manifest cannot be used |
| 3 | the dataset, another input or the recipe was refused |
| 5 | training failed |
| 6 | the machine or the storage failed |
| 7 | stopped at `stop_at`, incomplete |
| 9 | another pod owns the attempt |
| 10 | nothing left to do: an earlier life said its last word, or too many were lived |
| 11 | the hard deadline came first |
| 143 | asked to go by SIGTERM; a restarted container resumes |
"""

from dataclasses import dataclass
from enum import IntEnum

from job.contract.reasons import Reason


class ExitCode(IntEnum):
    """See the module."""

    FINISHED = 0
    BROKEN = 1
    NOT_STARTED = 2
    REFUSED = 3
    TRAINING_FAILED = 5
    MACHINE_FAILED = 6
    STOPPED = 7
    SUPERSEDED = 9
    ALREADY_OVER = 10
    HARD_DEADLINE = 11
    TERMINATED = 143


@dataclass(frozen=True)
class Outcome:
    """How the work ended: a code, and a sentence without secrets."""

    code: ExitCode
    sentence: str


_BY_REASON = {
    Reason.BAD_DATASET: ExitCode.REFUSED,
    Reason.BAD_INPUT: ExitCode.REFUSED,
    Reason.BAD_BASE_MODEL: ExitCode.REFUSED,
    Reason.BAD_INIT_WEIGHTS: ExitCode.REFUSED,
    Reason.BAD_RECIPE: ExitCode.REFUSED,
    Reason.NAN_LOSS: ExitCode.TRAINING_FAILED,
    Reason.OUT_OF_MEMORY: ExitCode.TRAINING_FAILED,
    Reason.STALLED: ExitCode.TRAINING_FAILED,
    Reason.TRAINER_CRASHED: ExitCode.TRAINING_FAILED,
    Reason.DISK_FULL: ExitCode.MACHINE_FAILED,
    Reason.STORAGE_FAILED: ExitCode.MACHINE_FAILED,
    Reason.STOP_AT: ExitCode.STOPPED,
    Reason.SUPERSEDED: ExitCode.SUPERSEDED,
    Reason.TOO_MANY_LIVES: ExitCode.ALREADY_OVER,
    Reason.HARD_DEADLINE: ExitCode.HARD_DEADLINE,
}


def exit_code(reason: Reason) -> ExitCode:
    """Return the exit code for the reason that ended an attempt."""
    return _BY_REASON.get(reason, ExitCode.BROKEN)
