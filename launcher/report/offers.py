"""What is on offer and what finishing costs there, for a person: before anything is rented. Pure."""

from collections.abc import Sequence

from launcher.money.choice import Appraisal
from launcher.money.forecast import Forecast

SHOWN_MAX = 15
"""Offers listed: what is left out is dearer or cannot be taken."""


def offer_lines(appraised: Sequence[Appraisal]) -> list[str]:
    """Return a table of the offers in the order in which they are tried."""
    if not appraised:
        return ["nothing is on offer"]
    name = max(len("machine"), *(len(item.offer.name) for item in appraised[:SHOWN_MAX]))
    where = max(len("where"), *(len(item.offer.location) for item in appraised[:SHOWN_MAX]))
    head = f"{'machine':<{name}}  {'where':<{where}}  {'stock':<6}  $/hour   hours  dollars"
    rows = [
        f"{item.offer.name:<{name}}  {item.offer.location:<{where}}  {item.offer.stock or '-':<6}"
        f"  {item.offer.price_per_hour:6.3f}  {_expected(item.forecast)}"
        + (f"  no: {item.why_not}" if item.why_not else "")
        for item in appraised[:SHOWN_MAX]
    ]
    left = len(appraised) - SHOWN_MAX
    return [
        "on offer, with what finishing takes there (estimates), first what is tried first:",
        head,
        *rows,
        *([f"and {left} more"] if left > 0 else []),
    ]


def forecast_line(item: Appraisal) -> str:
    """Say what finishing takes on one offer, part by part, and what of that was measured."""
    if item.forecast is None:
        return (
            f"no forecast: no earlier run here measured how fast {item.offer.name} is."
            " The cap and the hours hold all the same"
        )
    parts = ", ".join(
        f"{part.name} {_duration(part.seconds)} ({'measured' if part.measured else 'estimated'})"
        for part in item.forecast.parts
    )
    whole = f"about ${item.forecast.dollars:.2f}, {_duration(item.forecast.seconds)}"
    return f"forecast on {item.offer.name}: {whole} = {parts}; speed from {item.forecast.source}"


def _expected(forecast: Forecast | None) -> str:
    return (
        f"{'?':>6}  {'?':>7}"
        if forecast is None
        else f"{forecast.seconds / 3600:6.2f}  {forecast.dollars:7.2f}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
