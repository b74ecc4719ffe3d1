"""How long an attempt may last: pure arithmetic over the cap.

hard deadline = intent + (cap − upper bound of earlier attempts − reserve) ÷ price ceiling,
and never later than the run's wall-clock limit.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from launcher.model import RunRecord, charged_dollars

STOP_SHARE = 0.2
"""At most this share of an attempt is kept for upload and teardown, so that short runs still train."""


@dataclass(frozen=True)
class Window:
    """When an attempt must stop working, and when outsiders end it."""

    stop_at: datetime
    hard_deadline: datetime


def spent_at_most(record: RunRecord, now: datetime) -> float:
    """Return the upper bound of what all attempts have cost until `now`, in US dollars."""
    return sum(charged_dollars(attempt, now) for attempt in record.attempts)


def ceiling_of(record: RunRecord, price_per_hour: float) -> float:
    """Return what an attempt at this price is charged with for an hour: the run's ceiling, else the price."""
    ceiling = record.spec.budget.price_ceiling
    return price_per_hour if ceiling is None else ceiling


def window(record: RunRecord, price_ceiling: float, now: datetime) -> Window | None:
    """Return the window of an attempt that would start `now` at up to `price_ceiling` dollars an hour.

    None when the cap or the wall clock leaves no time to work.
    """
    budget = record.spec.budget
    wall_end = record.created_at + timedelta(seconds=budget.max_seconds)
    seconds = (wall_end - now).total_seconds()
    if price_ceiling > 0:
        dollars = budget.cap_dollars - spent_at_most(record, now)
        seconds = min(seconds, dollars / price_ceiling * 3600 - budget.reserve_seconds)
    reserve = min(budget.reserve_seconds, seconds * STOP_SHARE)
    if seconds - reserve <= 0:
        return None
    hard_deadline = (now + timedelta(seconds=seconds)).replace(microsecond=0)
    stop_at = hard_deadline - timedelta(seconds=reserve)
    return Window(stop_at, hard_deadline) if stop_at > now else None
