"""Which offer an attempt takes: of those that fit, the one on which finishing costs least. Pure.

Every launcher comes to the same answer, and so does the table that a person sees before anything is rented.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Literal

from job.contract.reasons import Reason
from launcher.budget import ceiling_of, window
from launcher.forecast import Forecast, forecast
from launcher.model import RunRecord
from launcher.ports import SOLD_OUT, Offer

REFUSALS_MAX = 20
"""Offers that may refuse in a row before the run ends."""
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
class NoChoice:
    """Why nothing is rented any more."""

    reason: Reason
    message: str


def appraise(record: RunRecord, offers: Sequence[Offer], now: datetime) -> tuple[Appraisal, ...]:
    """Return every offer in the order in which they are to be tried; what may not be taken comes last.

    Whatever was tried less often goes first, so that a refused offer is not asked for again before the others
    were; then what is in stock; then, unless the run wants the listed order, what finishing costs.
    """
    tried = [(attempt.offer, attempt.offer_location) for attempt in record.attempts]

    def order(seen: Appraisal) -> tuple[int, int, bool, bool, float]:
        offer, expected = seen.offer, seen.forecast
        return (
            _USE[seen.reason],
            tried.count((offer.name, offer.location)),
            offer.stock == SOLD_OUT,
            expected is not None and not expected.finishes,
            _cost(seen) if record.spec.cheapest else 0.0,
        )

    return tuple(sorted((_appraised(record, offer, now) for offer in offers), key=order))


def choose(record: RunRecord, offers: Sequence[Offer], now: datetime) -> Offer | NoChoice:
    """Return the offer that the next attempt takes, or why none is to be taken."""
    appraised = appraise(record, offers, now)
    sound = [item for item in appraised if item.reason is not Reason.NO_OFFER]
    if not sound:
        why = f": of {appraised[0].offer.name}, {appraised[0].why_not}" if appraised else ""
        return NoChoice(Reason.NO_OFFER, f"{record.spec.provider} offers no machine that may be rented{why}")
    in_a_row = takewhile(lambda attempt: attempt.refused, reversed(record.attempts))
    if sum(1 for _ in in_a_row) >= REFUSALS_MAX:
        return NoChoice(Reason.NO_OFFER, f"{REFUSALS_MAX} offers in a row could not be had")
    refusals = _refusals(record)
    if all(refusals.get((item.offer.name, item.offer.location)) for item in sound):
        why = refusals[sound[0].offer.name, sound[0].offer.location]
        message = f"every offer was refused, so the request is wrong: {why}"
        return NoChoice(Reason.CREATE_REFUSED, message)
    best = sound[0]
    if best.why_not:
        return NoChoice(Reason.CAP_REACHED, f"{best.offer.name}: {best.why_not}")
    return best.offer


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
