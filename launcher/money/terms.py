"""The terms of a run, settled before anything is uploaded or rented: what is on offer, what finishing takes.

Says it to a person, trims the epochs where that is wanted, and refuses a run that does not fit under its cap.
"""

from collections.abc import Iterable, Sequence

from job.contract.reasons import Reason
from launcher.errors import BudgetError, PodError
from launcher.model import RunRecord
from launcher.money.choice import Appraisal, appraise
from launcher.money.speeds import PAGE, measured_speeds
from launcher.ports import Notifier, Offer
from launcher.report.offers import forecast_line, offer_lines


def with_speeds(record: RunRecord, earlier: Iterable[RunRecord]) -> RunRecord:
    """Return the run with what `earlier` runs measured, and with the estimate for a GPU where one is paid."""
    speeds = measured_speeds(earlier, record.spec) + ((PAGE,) if record.spec.paid else ())
    return record.model_copy(update={"spec": record.spec.model_copy(update={"speeds": speeds})})


def settle(record: RunRecord, offers: Sequence[Offer], notifier: Notifier, *, trim: bool) -> RunRecord:
    """Show what is on offer and return the run as it may begin, at its own time of creation.

    With `trim`, a run that does not fit gets fewer epochs, as many times `save_every` as do.
    Raises BudgetError when it fits on no offer, PodError when none has a price.
    """
    appraised = appraise(record, offers, record.created_at)
    if record.spec.paid or len(appraised) != 1:
        for line in offer_lines(appraised):
            notifier.say(line)
    if all(item.reason is Reason.NO_OFFER for item in appraised):
        why = f": of {appraised[0].offer.name}, {appraised[0].why_not}" if appraised else ""
        raise PodError(
            f"{record.spec.provider} offers no machine that may be rented{why}; nothing was spent",
            next_step="try again later, or allow more kinds of machines in retrain.toml",
        )
    if appraised[0].why_not and trim:
        record = _trimmed(record, offers, appraised[0], notifier)
        appraised = appraise(record, offers, record.created_at)
    best = appraised[0]
    if best.why_not:
        raise _too_dear(record, best)
    notifier.say(forecast_line(best))
    return record


def _trimmed(record: RunRecord, offers: Sequence[Offer], best: Appraisal, notifier: Notifier) -> RunRecord:
    """Return the run with the most epochs that fit. Raises BudgetError when not even one saved epoch does."""
    recipe = record.spec.recipe
    low, high = 0, (recipe.max_epochs - 1) // recipe.save_every
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _fits(_of(record, middle), offers) else (low, middle - 1)
    if not low:
        raise _too_dear(record, best)
    trimmed = _of(record, low)
    notifier.say(
        f"TRIMMED: {trimmed.spec.recipe.max_epochs} epochs instead of {recipe.max_epochs},"
        " all that fit under cap and hours"
    )
    return trimmed


def _of(record: RunRecord, checkpoints: int) -> RunRecord:
    """Return the run with `checkpoints` times `save_every` epochs."""
    recipe = record.spec.recipe
    shorter = recipe.model_copy(update={"max_epochs": checkpoints * recipe.save_every})
    return record.model_copy(update={"spec": record.spec.model_copy(update={"recipe": shorter})})


def _fits(record: RunRecord, offers: Sequence[Offer]) -> bool:
    return not appraise(record, offers, record.created_at)[0].why_not


def _too_dear(record: RunRecord, best: Appraisal) -> BudgetError:
    budget = record.spec.budget
    limits = f"${budget.cap_dollars:.2f} and {budget.max_seconds / 3600:g} hours"
    if best.forecast is None:
        return BudgetError(
            f"${budget.cap_dollars:.2f} does not pay for more than the teardown reserve at"
            f" ${best.offer.price_per_hour:.3f} an hour; nothing was spent",
            next_step="raise budget.cap_dollars or shorten budget.teardown_reserve_minutes",
        )
    expected = best.forecast
    reached = f", epochs up to {expected.epochs} would" if expected.epochs else ""
    return BudgetError(
        f"{record.spec.recipe.max_epochs} epochs on {best.offer.name} take an estimated"
        f" {expected.seconds / 3600:.1f} hours and ${expected.dollars:.2f}; with the time kept back for the"
        f" pod's end they do not fit under {limits}{reached}; nothing was spent",
        next_step="raise budget.cap_dollars or budget.max_hours, or let --trim take fewer epochs",
    )
