"""Money: what pods have cost, what is left of the balance, and when it will be used up.

A pod is charged from PROVISIONING until it is really gone. Sums are taken from the charges,
exact or rounded up to what billing rounds up to.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.simulators.runpod.pod import Charge, Pod

HOURS_PER_MONTH = 730
HOUR = timedelta(hours=1)


class Ledger:
    """The account's balance in US dollars, going down with every open charge."""

    def __init__(self, balance: float, at: datetime) -> None:
        self._balance = balance
        self._at = at
        self._open: dict[str, float] = {}
        self._rate = 0.0

    @property
    def usd_per_hour(self) -> float:
        """Return what the account spends now."""
        return self._rate

    def balance(self, now: datetime) -> float:
        """Return what is left."""
        return self._balance - self._rate * ((now - self._at) / HOUR)

    def set_balance(self, dollars: float, now: datetime) -> None:
        """Pay in, or spend elsewhere."""
        self._balance, self._at = dollars, now

    def empty_at(self) -> datetime | None:
        """Return when the balance will be zero if nothing changes; None for never."""
        if self._rate <= 0:
            return None
        hours = max(0.0, self._balance / self._rate)
        # Beyond a year nobody waits, and a datetime overflows.
        return None if hours > 24 * 365 else self._at + hours * HOUR

    def begin(self, pod: Pod, usd_per_hour: float, disk_usd_per_hour: float, at: datetime) -> None:
        """Open a charge; the pod's earlier one must have been closed."""
        assert pod.pod_id not in self._open, pod.pod_id
        self._settle(at)
        pod.charges.append(Charge(at, usd_per_hour, disk_usd_per_hour))
        self._open[pod.pod_id] = usd_per_hour + disk_usd_per_hour
        self._rate = math.fsum(self._open.values())

    def end(self, pod: Pod, at: datetime, *, billed_by_seconds: int) -> None:
        """Close the pod's open charge, if there is one."""
        rate = self._open.pop(pod.pod_id, None)
        if rate is None:
            return
        self._settle(at)
        charge = pod.charges[-1]
        seconds = (at - charge.began).total_seconds()
        billed = (
            math.ceil(seconds / billed_by_seconds) * billed_by_seconds if billed_by_seconds > 1 else seconds
        )
        charge.ended = charge.began + timedelta(seconds=billed)
        self._balance -= rate * (billed - seconds) / 3600
        self._rate = math.fsum(self._open.values())

    def _settle(self, at: datetime) -> None:
        self._balance, self._at = self.balance(at), at


def spent(pod: Pod, now: datetime) -> float:
    """Return what a pod has cost until `now`, in US dollars."""
    return sum(sum(amounts(pod, pod.created_at, charge_end(charge, now), charge)) for charge in pod.charges)


def charge_end(charge: Charge, now: datetime) -> datetime:
    """Return how far a charge goes."""
    return charge.ended or now


def amounts(pod: Pod, begin: datetime, end: datetime, charge: Charge) -> tuple[float, float]:
    """Return what a charge comes to between two moments: compute and disk, in US dollars."""
    until = end if charge.ended is None else min(end, charge.ended)
    hours = max(timedelta(), until - max(begin, charge.began)) / HOUR
    return charge.usd_per_hour * hours, charge.disk_usd_per_hour * hours


@dataclass(frozen=True)
class Record:
    """What a pod came to in one bucket of time."""

    begin: datetime
    end: datetime
    pod: Pod
    compute: float
    disk: float


def records(
    pods: list[Pod], begin: datetime, end: datetime, size: str, known_until: datetime
) -> list[Record]:
    """Return a record for each pod and bucket in which it was charged, as far as billing has come."""
    found = []
    bucket = bucket_start(begin, size)
    while bucket < end:
        after = next_bucket(bucket, size)
        for pod in pods:
            parts = [amounts(pod, bucket, min(after, known_until), charge) for charge in pod.charges]
            compute, disk = sum(part[0] for part in parts), sum(part[1] for part in parts)
            if compute or disk:
                found.append(Record(bucket, after, pod, compute, disk))
        bucket = after
    return found


def bucket_start(at: datetime, size: str) -> datetime:
    """Return the beginning of the bucket that holds a moment; weeks begin on Mondays."""
    at = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if size == "hour":
        return at
    at = at.replace(hour=0)
    if size == "week":
        return at - timedelta(days=at.weekday())
    if size == "month":
        return at.replace(day=1)
    return at.replace(month=1, day=1) if size == "year" else at


def next_bucket(start: datetime, size: str) -> datetime:
    """Return the beginning of the bucket after the one that begins at `start`."""
    if size in ("month", "year"):
        longer = timedelta(days=32 if size == "month" else 367)
        return bucket_start(start + longer, size)
    return start + {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}[size]
