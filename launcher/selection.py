"""Which checkpoint is the model: a pure choice from what was measured.

Two proportions differ where their 95% intervals do not overlap; what overlaps is a tie.
"""

from job.contract.keys import START_EPOCH
from job.contract.records import Score, Scores
from launcher.model import RunRecord, Selection


def clear_of(start: Score, score: Score) -> bool:
    """Whether a score's interval lies wholly above the start's."""
    return start.n > 0 and score.n > 0 and score.low > start.high


def learned(start: Scores, scores: Scores) -> tuple[str, ...]:
    """Return the attributes whose interval lies clear above the start's."""
    return tuple(
        name
        for name, score in scores.attributes.items()
        if name in start.attributes and clear_of(start.attributes[name], score)
    )


def mean_rate(scores: Scores) -> float:
    """Return the mean over attributes of the share in which the asked value was found."""
    measured = [score.rate for score in scores.attributes.values() if score.n]
    return sum(measured) / len(measured) if measured else 0.0


def select(record: RunRecord) -> Selection | None:
    """Choose an epoch among the checkpoints at home; None where there is none.

    The best mean rate leads; an earlier epoch wins over it when no attribute of it is clearly worse.
    Without measurements the last epoch is taken, and the reason says so.
    """
    home = [item.receipt.epoch for item in record.checkpoints()]
    if not home:
        return None
    measured = [scores for epoch in home if (scores := record.scores_of(epoch)) and scores.attributes]
    if not measured:
        return Selection(epoch=home[-1], why="the last epoch: no attribute was measured")
    best = max(measured, key=mean_rate)
    for candidate in measured:
        if candidate.epoch >= best.epoch:
            break
        if not learned(candidate, best):
            return Selection(
                epoch=candidate.epoch,
                why=f"the earliest epoch that is not clearly worse than the best one, epoch {best.epoch}"
                f" (mean {_share(candidate)} against {_share(best)})",
            )
    return Selection(
        epoch=best.epoch, why=f"the best mean of its attributes, {_share(best)}{_against(record, best)}"
    )


def _share(scores: Scores) -> str:
    return f"{mean_rate(scores):.0%} on {scores.images} images"


def _against(record: RunRecord, best: Scores) -> str:
    start = record.scores_of(START_EPOCH)
    if start is None:
        return ""
    names = learned(start, best)
    return (
        f"; clear of the start in {', '.join(names)}"
        if names
        else "; not clear of the start in any attribute"
    )
