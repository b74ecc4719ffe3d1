"""How a run ended: its closing phase, exit code and one sentence. Pure."""

from dataclasses import dataclass

from job.contract.reasons import Reason
from launcher.errors import Exit
from launcher.model import Ending, Phase, RunRecord

_TRAINING = frozenset(
    {
        Reason.BAD_BASE_MODEL,
        Reason.BAD_INIT_WEIGHTS,
        Reason.BAD_RECIPE,
        Reason.NAN_LOSS,
        Reason.OUT_OF_MEMORY,
        Reason.STALLED,
        Reason.TRAINER_CRASHED,
    }
)
_OUT_OF_TIME = frozenset({Reason.STOP_AT, Reason.HARD_DEADLINE, Reason.CAP_REACHED})


@dataclass(frozen=True)
class Outcome:
    """What to say and to exit with when a run is closed."""

    phase: Phase
    exit_code: Exit
    sentence: str


def outcome(record: RunRecord) -> Outcome:
    """Return how the run ended, given that no pod of it is left. Of several troubles the gravest counts."""
    ending = final_ending(record)
    lost = record.checkpoints_not_home()
    if ending is None:
        if lost:
            return Outcome(Phase.FAILED, Exit.INCOMPLETE, f"not at home: {', '.join(lost)}")
        if record.lost():
            names = ", ".join(item.key for item in record.lost())
            return Outcome(Phase.DONE, Exit.INCOMPLETE, f"all checkpoints are home, but not {names}")
        return Outcome(Phase.DONE, Exit.DONE, "all checkpoints are home and verified")
    if ending.reason is Reason.CANCELLED:
        code = Exit.INCOMPLETE if record.lost() else Exit.CANCELLED
        return Outcome(Phase.CANCELLED, code, _with_loss("cancelled on request", record))
    sentence = _with_loss(f"{_words(ending.reason)}: {ending.message}", record)
    return Outcome(Phase.FAILED, _code(record, ending), sentence)


def final_ending(record: RunRecord) -> Ending | None:
    """Return why the run is over, None where its work was done."""
    last = record.last
    if last is not None and last.ended is not None and last.ended.reason is None:
        return None
    if record.cancel_requested:
        at = record.closed_at or record.created_at
        return Ending(reason=Reason.CANCELLED, message="cancelled on request", at=at)
    return record.stopped or (last.ended if last is not None else None)


def _code(record: RunRecord, ending: Ending) -> Exit:
    if record.lost():
        return Exit.INCOMPLETE
    if ending.reason is Reason.BAD_DATASET:
        return Exit.DATASET
    if ending.reason in _OUT_OF_TIME:
        return Exit.INCOMPLETE if record.attempts else Exit.BUDGET
    return Exit.TRAINING if ending.reason in _TRAINING else Exit.INFRASTRUCTURE


def _with_loss(sentence: str, record: RunRecord) -> str:
    home, all_of_them = len(record.checkpoints()), len(record.spec.recipe.saved_epochs)
    return f"{sentence}; {home} of {all_of_them} checkpoints are home"


def _words(reason: Reason | None) -> str:
    return (reason or Reason.TRAINER_CRASHED).value.replace("_", " ")
