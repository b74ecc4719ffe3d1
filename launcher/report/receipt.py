"""The receipt of a run: what each pod cost, for how long, and what of it was not training. Pure.

Estimates until the provider's own bill has settled; never mixed with it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from launcher.model import Attempt, RunRecord, charged_dollars, estimated_dollars, seconds_between

CENT_FRACTION = 1e-4
"""Dollars by which a bill may differ from our arithmetic without being above the bound."""


def receipt(record: RunRecord, now: datetime) -> dict[str, Any]:
    """Return the receipt in JSON types. `now` is the store's time, for pods that still run."""
    pods = [_pod(record, attempt, now) for attempt in record.attempts if not attempt.refused]
    seconds = sum(pod["seconds"] for pod in pods)
    training = sum(pod["spent"]["training"] for pod in pods)
    bills = [pod["billed"] for pod in pods if pod["pod_ids"]]
    told = [bill for bill in bills if bill is not None]
    return {
        "pods": pods,
        "seconds": round(seconds, 1),
        "training_seconds": round(training, 1),
        "outside_training_seconds": round(seconds - training, 1),
        "outside_training_dollars": round(sum(pod["outside_training_dollars"] for pod in pods), 6),
        "estimated_dollars": round(sum(pod["estimated_dollars"] for pod in pods), 6),
        "at_most_dollars": round(sum(pod["at_most_dollars"] for pod in pods), 6),
        "billed_dollars": round(sum(bill["dollars"] for bill in told), 6) if told else None,
        "bill_settled": bool(bills) and all(bill is not None and bill["settled"] for bill in bills),
    }


def receipt_lines(found: dict[str, Any], provider: str) -> list[str]:
    """Return the receipt as text, for what `receipt` returned."""
    lines: list[str] = []
    for pod in found["pods"]:
        name = ", ".join(pod["pod_ids"]) or pod["pod_name"]
        end = f"confirmed gone {pod['gone_at']}" if pod["gone_at"] else "NOT confirmed gone"
        spent = ", ".join(f"{part} {_clock(seconds)}" for part, seconds in pod["spent"].items() if seconds)
        lines += [
            f"  pod {name} on {' '.join(filter(None, (pod['offer'], pod['location'])))}",
            f"    created {pod['created_at'] or 'never seen'}, {end}",
            f"    {_clock(pod['seconds'])} = {spent or 'nothing'}",
            f"    about ${pod['estimated_dollars']:.4f} (estimate), at most ${pod['at_most_dollars']:.4f}",
            *_bill_lines(pod, provider),
        ]
    if not lines:
        return []
    outside, whole = found["outside_training_seconds"], found["seconds"]
    share = f", {outside / whole:.0%} of the time" if whole else ""
    lines.append(
        f"  outside training: {_clock(outside)}, about ${found['outside_training_dollars']:.4f}{share}"
    )
    return ["Receipt:", *lines]


def _bill_lines(pod: dict[str, Any], provider: str) -> list[str]:
    bill = pod["billed"]
    if bill is None:
        return []
    state = "" if bill["settled"] else " so far; the bill settles some time after the pod's end"
    lines = [f"    billed ${bill['dollars']:.4f} by {provider}{state}"]
    if bill["above_bound"]:
        lines.append(
            f"    BILLED ABOVE THE BOUND: ${bill['dollars']:.4f} is more than this pod could have cost,"
            f" ${pod['at_most_dollars']:.4f}; look at it in the provider's console"
        )
    return lines


def _pod(record: RunRecord, attempt: Attempt, now: datetime) -> dict[str, Any]:
    end = attempt.gone_at or now
    seconds = seconds_between(attempt.created_at, end) if attempt.created_at else 0.0
    spent = _spent(attempt, seconds, end)
    dollars = estimated_dollars(attempt, now)
    outside = dollars * (1 - spent["training"] / seconds) if seconds else dollars
    return {
        "attempt": attempt.number,
        "pod_ids": list(attempt.billed_ids),
        "pod_name": attempt.pod_name,
        "offer": attempt.offer,
        "location": attempt.offer_location,
        "created_at": attempt.created_at.isoformat() if attempt.created_at else None,
        "gone_at": attempt.gone_at.isoformat() if attempt.gone_at else None,
        "seconds": round(seconds, 1),
        "spent": {name: round(value, 1) for name, value in spent.items()},
        "outside_training_dollars": round(outside, 6),
        "estimated_dollars": round(dollars, 6),
        "at_most_dollars": round(charged_dollars(attempt, now), 6),
        "billed": _billed(record, attempt, now),
    }


def _spent(attempt: Attempt, seconds: float, end: datetime) -> dict[str, float]:
    """Part the seconds of a pod. Training and evaluation are the pod's word, kept within what there is."""
    training = min(attempt.pace.trained_seconds, seconds)
    evaluation = min(attempt.pace.evaluated_seconds, seconds - training)
    left = seconds - training - evaluation
    trains_at = attempt.trains_at or (attempt.ended.at if attempt.ended else end)
    boot = min(seconds_between(attempt.created_at or trains_at, trains_at), left)
    return {
        "boot": boot,
        "training": training,
        "evaluation": evaluation,
        "upload and teardown": left - boot,
    }


def _billed(record: RunRecord, attempt: Attempt, now: datetime) -> dict[str, Any] | None:
    bills: Sequence[Any] = [bill for bill in record.bills if bill.pod_id in attempt.billed_ids]
    if not bills:
        return None
    dollars = sum(bill.dollars for bill in bills)
    return {
        "dollars": round(dollars, 6),
        "settled": len(bills) == len(attempt.billed_ids) and all(bill.settled for bill in bills),
        "above_bound": dollars > charged_dollars(attempt, now) + CENT_FRACTION,
    }


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
