"""Which offer an attempt takes: of those that fit, the one on which finishing costs least. Pure.

Every launcher comes to the same answer, and so does the table that a person sees before anything is rented.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Literal

from job.contract.reasons import Reason
from launcher.model import Attempt, RunRecord
from launcher.money.budget import ceiling_of, window
from launcher.money.forecast import Forecast, forecast
from launcher.ports import SOLD_OUT, Offer

REFUSALS_MAX = 200
"""Refusals in a row that a record is to hold: the more offers there are, the longer the pauses get."""
FIRST_PAUSE = 60.0
"""Seconds without a request after the first round over all offers; each later pause is twice as long."""
LONGEST_PAUSE = 600.0
"""Seconds of a pause at the most, as long as `REFUSALS_MAX` allows."""
_USE = {None: 0, Reason.CAP_REACHED: 1, Reason.NO_OFFER: 2}


@dataclass(frozen=True)
class Appraisal:
    """What there is to say of one offer."""

    offer: Offer
    forecast: Forecast | None
    """None where nothing is known of its speed."""
    why_not: str = ""
    """Why it is not to be taken; empty where it may be."""
    reason: Literal[Reason.NO_OFFER, Reason.CAP_REACHED] | None = None
    """Of `why_not`: the offer itself, or what the cap leaves."""


@dataclass(frozen=True)
class Pause:
    """Nothing is to be had now; later, something may be."""

    since: datetime


@dataclass(frozen=True)
class NoChoice:
    """Why nothing is rented any more."""

    reason: Reason
    message: str


def appraise(record: RunRecord, offers: Sequence[Offer], now: datetime) -> tuple[Appraisal, ...]:
    """Return every offer in the order in which they are to be tried; what may not be taken comes last.

    Whatever was not yet tried in this round goes first, so that a refused offer is not asked for again before
    the others were; then what is in stock; then, unless the run wants the listed order, what finishing costs.
    """
    _, tried = _rounds(record.attempts)

    def order(seen: Appraisal) -> tuple[int, bool, bool, bool, float]:
        offer, expected = seen.offer, seen.forecast
        return (
            _USE[seen.reason],
            (offer.name, offer.location) in tried,
            offer.stock == SOLD_OUT,
            expected is not None and not expected.finishes,
            _cost(seen) if record.spec.cheapest else 0.0,
        )

    return tuple(sorted((_appraised(record, offer, now) for offer in offers), key=order))


def choose(record: RunRecord, offers: Sequence[Offer], now: datetime) -> Offer | Pause | NoChoice:
    """Return the offer that the next attempt takes, or why none is to be taken now or at all.

    When every offer was refused, nothing is asked for during a pause, and then each once more, until
    `waits_until`; the last round begins then.
    """
    appraised = appraise(record, offers, now)
    sound = [item for item in appraised if item.reason is not Reason.NO_OFFER]
    if not sound:
        why = f": of {appraised[0].offer.name}, {appraised[0].why_not}" if appraised else ""
        return wait(record, f"{record.spec.provider} offers no machine that may be rented{why}", now)
    fit = [item.offer for item in sound if not item.why_not]
    if not fit:
        return NoChoice(Reason.CAP_REACHED, f"{sound[0].offer.name}: {sound[0].why_not}")
    refusals = _refusals(record)
    if all(refusals.get((offer.name, offer.location)) for offer in fit):
        why = refusals[fit[0].name, fit[0].location]
        message = f"every offer was refused, so the request is wrong: {why}"
        return NoChoice(Reason.CREATE_REFUSED, message)
    streak = _streak(record)
    rounds, asked = _rounds(streak)
    if not streak or (len(streak) < REFUSALS_MAX and any((o.name, o.location) not in asked for o in fit)):
        return fit[0]
    until, last = waits_until(record, now), streak[-1]
    if last.intent_at >= until:
        return wait(record, last.ended.message if last.ended else "", now)
    left = (until - last.intent_at).total_seconds()
    longest = max(LONGEST_PAUSE, left * len(fit) / max(1, REFUSALS_MAX - len(streak)))
    again_at = last.intent_at + timedelta(seconds=min(FIRST_PAUSE * 2 ** (rounds - 1), longest))
    return fit[0] if now >= min(again_at, until) else Pause(waits_since(record, now))


def wait(record: RunRecord, why: str, now: datetime) -> Pause | NoChoice:
    """Return what follows where nothing is to be had at all: patience, as long as there is some."""
    since = waits_since(record, now)
    if now < waits_until(record, now):
        return Pause(since)
    message = f"no machine could be had from {since:%H:%M} to {now:%H:%M} UTC: {why}"
    return NoChoice(Reason.NO_OFFER, f"{message}; `clocks.capacity` sets how long one is waited for")


def is_waiting(record: RunRecord) -> bool:
    """Whether no machine could be had since the last attempt that had one."""
    return bool(_waits(record))


def waits_since(record: RunRecord, now: datetime) -> datetime:
    """Return since when no machine could be had: `now` where one was not wanted before."""
    return min(_waits(record), default=now)


def waits_until(record: RunRecord, now: datetime) -> datetime:
    """Return when the patience for a machine ends, and not later than the run's wall clock."""
    budget, clocks = record.spec.budget, record.spec.clocks
    patience = waits_since(record, now) + timedelta(seconds=clocks.capacity_seconds)
    return min(patience, record.created_at + timedelta(seconds=budget.max_seconds))


def _waits(record: RunRecord) -> list[datetime]:
    """Return when a machine was found not to be had since the last attempt that had one."""
    had = next((item.intent_at for item in reversed(record.attempts) if not item.refused), None)
    noted = record.waiting_since
    found = [noted] if noted is not None and (had is None or noted > had) else []
    return found + [attempt.intent_at for attempt in _streak(record) if attempt.asked_at is not None]


def _streak(record: RunRecord) -> list[Attempt]:
    """Return the refused attempts since the last that was not."""
    return list(takewhile(lambda attempt: attempt.refused, reversed(record.attempts)))[::-1]


def _rounds(attempts: Sequence[Attempt]) -> tuple[int, set[tuple[str, str]]]:
    """Return how many rounds attempts make, and the offers of the last: what comes again begins a round."""
    rounds, asked = 0, set[tuple[str, str]]()
    for attempt in attempts:
        where = (attempt.offer, attempt.offer_location)
        if not asked or where in asked:
            rounds, asked = rounds + 1, set()
        asked.add(where)
    return rounds, asked


def _refusals(record: RunRecord) -> dict[tuple[str, str], str]:
    """Return for each offer why its last request was refused, "" where that may pass or it was had."""
    return {
        (attempt.offer, attempt.offer_location): attempt.ended.message
        if attempt.refused and attempt.ended and attempt.ended.reason is Reason.CREATE_REFUSED
        else ""
        for attempt in record.attempts
        if attempt.asked_at is not None
    }


def _appraised(record: RunRecord, offer: Offer, now: datetime) -> Appraisal:
    price, ceiling = offer.price_per_hour, record.spec.budget.price_ceiling
    if not math.isfinite(price) or price < 0 or (record.spec.paid and price == 0):
        return Appraisal(offer, None, "its price is not known", Reason.NO_OFFER)
    if ceiling is not None and price > ceiling:
        return Appraisal(offer, None, f"it costs more than ${ceiling:.3f} an hour", Reason.NO_OFFER)
    expected = forecast(record, offer, now)
    if window(record, ceiling_of(record, price), now) is None:
        return Appraisal(offer, expected, "the cap leaves no time for it", Reason.CAP_REACHED)
    if expected is None or expected.finishes:
        return Appraisal(offer, expected)
    # A run of which something is at home goes on as far as the money reaches; a fresh one is not begun.
    fresh = all(attempt.refused for attempt in record.attempts)
    if not fresh and expected.epochs:
        return Appraisal(offer, expected)
    wanted = "the run" if fresh else "the next checkpoint"
    return Appraisal(offer, expected, f"{wanted} does not fit under cap and hours", Reason.CAP_REACHED)


def _cost(seen: Appraisal) -> float:
    """Return what offers are compared by: dollars to finish, or of an hour where nobody knows how long."""
    if not math.isfinite(seen.offer.price_per_hour):
        return math.inf
    return seen.offer.price_per_hour if seen.forecast is None else seen.forecast.dollars
