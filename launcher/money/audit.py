"""Asking the provider what a closed run's pods cost, and keeping the answer in its record.

Knows the ports. An audit afterwards: nothing that ends pods depends on it.
"""

from collections.abc import Callable

from launcher.errors import RetrainError
from launcher.journal import Journal
from launcher.model import Attempt, RunRecord
from launcher.money.billing import Bill, billed
from launcher.ports import Pods, Store


def audited(
    record: RunRecord, pods: Pods, store: Store, journal: Journal, say: Callable[[str], None]
) -> RunRecord:
    """Return the record of a closed run with the provider's bills as they are now, where not yet settled.

    Best effort: what fails is said, and the next command asks again.
    """
    spec = record.spec
    if not record.phase.closed or (spec.provider, spec.place) != (pods.provider, pods.place):
        return record
    known = {bill.pod_id: bill for bill in record.bills}
    try:
        found = [
            bill
            for attempt in record.attempts
            for pod_id in attempt.billed_ids
            if (bill := _asked(known.get(pod_id), attempt, pod_id, pods, store)) is not None
        ]
        if not found or all(known.get(bill.pod_id) == bill for bill in found):
            return record
        return journal.keep_bills(record.run_id, found)
    except RetrainError as error:
        say(f"the bill is not known yet: {error}")
        return record


def _asked(known: Bill | None, attempt: Attempt, pod_id: str, pods: Pods, store: Store) -> Bill | None:
    """Return a pod's bill: as known where that is settled, else as the provider says now."""
    if attempt.gone_at is None or (known is not None and known.settled):
        return known
    dollars = pods.billed(pod_id, since=attempt.intent_at, until=attempt.gone_at)
    if dollars is None:
        return known
    return billed(known, pod_id, dollars, gone_at=attempt.gone_at, now=store.now())
