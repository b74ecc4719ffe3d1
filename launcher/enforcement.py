"""What must happen although the record cannot be written: pods past their hard deadline are ended.

A deadline is immutable and on record since before its pod was asked for, so ending such a pod needs no new
decision. Knows the ports; keeps the store's time going by this machine's monotonic clock.
"""

from datetime import datetime, timedelta

from launcher.errors import Leaked, PodError, StorageError
from launcher.model import Attempt, RunRecord, seconds_between
from launcher.ports import Clock, Notifier, Pods


class Enforcement:
    """The last layer of a launcher whose store does not answer."""

    def __init__(self, pods: Pods, clock: Clock) -> None:
        self._pods = pods
        self._clock = clock
        self._seen: tuple[datetime, float] | None = None
        self._outage_began: datetime | None = None

    def saw(self, now: datetime) -> float:
        """Remember the store's time: it answers.

        Returns the seconds by which it went ahead of this machine's since it was last seen, 0 the first time.
        """
        before, monotonic = self._seen or (now, self._clock.monotonic()), self._clock.monotonic()
        self._seen = (now, monotonic)
        self.answered()
        return (now - before[0]).total_seconds() - (monotonic - before[1])

    def answered(self) -> None:
        """Note that the store answers, whatever it said."""
        self._outage_began = None

    def enforce(self, record: RunRecord, notifier: Notifier) -> None:
        """End every known pod past its hard deadline.

        Raises StorageError once all have been gone for longer than the run's limit, so that nobody waits for
        a dead store for ever; Leaked when some are still not confirmed gone by then. Where no pod was left
        before, nothing is billed and the store is waited for as long as results that cannot be fetched.
        """
        if self._seen is None:
            return
        seen_at, monotonic = self._seen
        now = seen_at + timedelta(seconds=self._clock.monotonic() - monotonic)
        began = self._outage_began = self._outage_began or now
        due = [item for item in record.attempts if item.gone_at is None and now >= item.hard_deadline]
        if record.all_gone and seconds_between(began, now) > record.spec.clocks.collect_seconds:
            raise _silent_store(record, "no pod of this run is left")
        if not due:
            return
        left = [attempt for attempt in due if not self._ended(attempt, notifier)]
        too_long = any(
            seconds_between(max(attempt.hard_deadline, began), now) > record.spec.clocks.leak_seconds
            for attempt in due
        )
        if left and too_long:
            names = ", ".join(name for attempt in left for name in attempt.pod_ids or (attempt.pod_name,))
            raise Leaked(
                f"LEAKED: pod {names} is past its deadline, not confirmed gone, and the store is silent",
                next_step="end it in the provider's console; then `retrain attach` when the store is back",
            )
        if not left and too_long:
            raise _silent_store(record, "every pod was ended at its deadline")

    def _ended(self, attempt: Attempt, notifier: Notifier) -> bool:
        """End an attempt's pods; whether the provider then shows none of them."""
        try:
            found = {pod.pod_id for pod in self._pods.find(attempt.pod_name)} | set(attempt.pod_ids)
            notifier.say(
                f"attempt {attempt.number} is past its hard deadline: ending {', '.join(found) or 'it'}"
            )
            gone = [self._pods.terminate(pod_id) for pod_id in sorted(found)]
            return all(gone) and not self._pods.find(attempt.pod_name)
        except PodError as error:
            notifier.say(f"attempt {attempt.number} could not be ended yet: {error}")
            return False


def _silent_store(record: RunRecord, pods: str) -> StorageError:
    return StorageError(
        f"the store does not answer; {pods}",
        next_step=f"`retrain attach {record.run_id}` when the store is back: results are in it",
    )
