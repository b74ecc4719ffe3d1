"""What must happen although the record cannot be written: pods past their hard deadline are ended.

A deadline is immutable and on record since before its pod was asked for, so ending such a pod needs no new
decision. Knows the ports.
"""

from collections.abc import Sequence
from datetime import datetime

from launcher.errors import Leaked, PodError, StorageError
from launcher.kept_time import KeptTime
from launcher.model import Attempt, RunRecord, seconds_between
from launcher.ports import Notifier, Pods
from launcher.roster import Roster


class Enforcement:
    """The last layer of a launcher whose store does not answer."""

    def __init__(self, pods: Pods, time: KeptTime) -> None:
        """`time` is what was heard of the store while it answered."""
        self._pods = pods
        self._time = time
        self._outage_began: datetime | None = None

    def answered(self) -> None:
        """Note that the store answers, whatever it said."""
        self._outage_began = None

    def enforce(self, record: RunRecord, roster: Roster, notifier: Notifier) -> None:
        """End every known pod past its hard deadline.

        Raises StorageError once all have been gone for longer than the run's limit, so that nobody waits for
        a dead store for ever; Leaked when some are still not confirmed gone by then. Where no pod was left
        before, nothing is billed and the store is waited for as long as results that cannot be fetched.
        """
        now = self._time.now()
        if now is None:
            return
        began = self._outage_began = self._outage_began or now
        due = [item for item in record.attempts if item.gone_at is None and now >= item.hard_deadline]
        if record.all_gone and seconds_between(began, now) > record.spec.clocks.collect_seconds:
            raise _silent_store(record, "no pod of this run is left")
        refused = [attempt for attempt in due if not self._ended(attempt, roster, notifier)]
        too_long = any(
            seconds_between(max(attempt.hard_deadline, began), now) > record.spec.clocks.leak_seconds
            for attempt in due
        )
        if not too_long:
            return
        left = refused or self._still_shown(due, now, notifier)
        if left:
            names = ", ".join(name for attempt in left for name in attempt.pod_ids or (attempt.pod_name,))
            raise Leaked(
                f"LEAKED: pod {names} is past its deadline, not confirmed gone, and the store is silent",
                pods={attempt.pod_name: attempt.pod_ids for attempt in left},
                on_record=True,
                next_step="end it in the provider's console; then `retrain attach` when the store is back",
            )
        raise _silent_store(record, "every pod was ended at its deadline")

    def _ended(self, attempt: Attempt, roster: Roster, notifier: Notifier) -> bool:
        """End an attempt's pods; whether all were found and the provider acknowledged every end."""
        found, all_of_them = set(attempt.pod_ids), True
        try:
            found |= {pod.pod_id for pod in roster.shown(attempt)}
        except PodError as error:
            all_of_them = _not_ended(attempt, error, notifier)
        notifier.say(f"attempt {attempt.number} is past its hard deadline: ending {', '.join(found) or 'it'}")
        for pod_id in sorted(found):
            try:
                all_of_them &= self._pods.terminate(pod_id)
            except PodError as error:
                all_of_them = _not_ended(attempt, error, notifier)
        return all_of_them

    def _still_shown(
        self, attempts: Sequence[Attempt], now: datetime, notifier: Notifier
    ) -> Sequence[Attempt]:
        """Return those of which the provider, asked anew, does not say that no pod is left."""
        roster, left = Roster(self._pods, now), []
        for attempt in attempts:
            try:
                shown = bool(roster.pods_of(attempt))
            except PodError as error:
                shown = not _not_ended(attempt, error, notifier)
            if shown:
                left.append(attempt)
        return left


def _not_ended(attempt: Attempt, error: PodError, notifier: Notifier) -> bool:
    """Tell why an attempt's end is not known; returns False."""
    notifier.say(f"attempt {attempt.number} could not be ended yet: {error}")
    return False


def _silent_store(record: RunRecord, pods: str) -> StorageError:
    return StorageError(
        f"the store does not answer; {pods}",
        next_step=f"`retrain attach {record.run_id}` when the store is back: results are in it",
    )
