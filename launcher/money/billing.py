"""What a provider says that a pod cost, and when that counts as its last word. Pure.

A provider brings its bills up to date every few minutes and for some time after a pod's end: a figure counts
as settled when it was asked for long after, or has stayed the same.
"""

from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from job.contract.schema import Utc, Wire

SETTLES_AFTER = timedelta(minutes=15)
"""From a pod's confirmed absence to the first answer that may be the last word."""
APART = timedelta(minutes=6)
"""Between two answers that say the same; bills are brought up to date about every five minutes."""
SETTLED_AFTER = timedelta(hours=2)
"""From a pod's confirmed absence to when a single answer counts."""


class Bill(Wire):
    """A provider's answer to what a pod cost in all."""

    pod_id: str
    dollars: Annotated[float, Field(ge=0)]
    since: Utc
    """When this figure was first told."""
    settled: bool = False


def billed(known: Bill | None, pod_id: str, dollars: float, *, gone_at: datetime, now: datetime) -> Bill:
    """Return the bill after another answer, `now` by the store's time.

    `known` is the answer before. A bill over nothing is settled by time alone: it may not have been written.
    """
    age = now - gone_at
    same = known is not None and known.dollars == dollars and now - known.since >= APART and dollars > 0
    settled = age >= SETTLED_AFTER or (age >= SETTLES_AFTER and same)
    since = known.since if known is not None and known.dollars == dollars else now
    return Bill(pod_id=pod_id, dollars=dollars, since=since, settled=settled)
