"""Stays beside one run and ends its pods at their hard deadlines, whatever became of the launcher.

Needs nobody but the provider: names carry deadlines. The store, where it answers, says when the run is over.
Knows the ports and the reaper.
"""

from datetime import datetime, timedelta

from launcher.ending.reap import Verdict
from launcher.ending.reaper import Reaper, Sight
from launcher.errors import PodError
from launcher.ports import Clock, Notifier

LOOK_SECONDS = 60.0
"""Between two looks at the most: how late a pod is ended whose deadline no look had seen before."""
RETRY_SECONDS = 15.0
"""Between two tries to end a pod, or to reach a provider that did not answer."""
END_SECONDS = 60.0
"""How long one try to end pods waits for the proof."""
SLICE_SECONDS = 5.0
"""The longest sleep: a laptop that was closed notices soon after it is opened how much time went by."""
LAG_SECONDS = 600.0
"""How long after the end of the run's time a pod may still come to the provider's list."""
PATIENCE_SECONDS = 24 * 3600.0
"""After so long past the run's time, without a sign of its pods, nobody is served by asking on."""
SHORT_SILENCE_SECONDS = 3600.0
"""A provider that was silent for longer is asked as seldom as one at whose place nothing happens."""


class Watchdog:
    """Watches over the pods of one run."""

    def __init__(
        self,
        reaper: Reaper,
        clock: Clock,
        notifier: Notifier,
        *,
        run_id: str,
        until: datetime,
        started_at: datetime,
    ) -> None:
        """`until` is when the run's time is over: no attempt's deadline lies later.

        `started_at` is the time now by this machine's clock, which counts until the provider told its own.
        """
        self._reaper = reaper
        self._clock = clock
        self._notifier = notifier
        self._run_id = run_id
        self._until = until
        self._unproven: dict[str, Verdict] = {}
        """Pods that had to end and are not confirmed gone, by their id."""
        self._hear(started_at)
        self._seen_none = False
        """Whether the last look saw no pod of the run."""

    def watch(self) -> bool:
        """Return when the run is over and none of its pods is left; False when nobody could tell any more."""
        while (pause := self._look()) is not None:
            if self._clock.monotonic() > self._patient_until:
                self._notifier.say("the run's time is long over and nobody tells of its pods: giving up")
                return False
            self._rest(pause)
        return True

    def _look(self) -> float | None:
        """End what must end; return the seconds until the next look, None when nothing is left to do."""
        try:
            sight = self._reaper.look()
        except PodError as error:
            self._notifier.say(f"the provider does not answer: {error}")
            return self._pause_in_silence()
        except Exception as error:  # noqa: BLE001 - the last layer outlives what one look stumbles over
            self._notifier.say(f"unexpected {type(error).__name__}, a bug in retrain; looking again")
            return self._pause_in_silence()
        if sight.verdicts or not self._unproven:
            self._hear(sight.now)
        # A pod that had to end is not gone because one list does not show it.
        due = {**self._unproven, **{verdict.pod.pod_id: verdict for verdict in sight.due}}
        if due:
            for verdict in due.values():
                self._notifier.say(f"ending pod {verdict.pod.pod_id}: {verdict.why}")
            left = self._reaper.end(due.values(), seconds=END_SECONDS)
            self._unproven = {verdict.pod.pod_id: verdict for verdict in left}
            gone = sorted(due.keys() - self._unproven)
            if gone:
                self._notifier.say(f"confirmed gone: {', '.join(gone)}")
            return RETRY_SECONDS
        seen_none_before, self._seen_none = self._seen_none, not sight.verdicts
        if self._seen_none and self._is_over(sight):
            # Twice: one empty list may be a provider's hiccup.
            if seen_none_before:
                self._notifier.say("the run is over and none of its pods is left")
                return None
            return RETRY_SECONDS
        waits = [(verdict.name.hard_deadline - sight.now).total_seconds() for verdict in sight.verdicts]
        return min([LOOK_SECONDS, *waits])

    def _hear(self, now: datetime) -> None:
        """Be patient anew: as long as the run may last by this time, and PATIENCE_SECONDS more."""
        self._answered_at = self._clock.monotonic()
        left = max(0.0, (self._until - now).total_seconds())
        self._patient_until = self._answered_at + left + PATIENCE_SECONDS

    def _pause_in_silence(self) -> float:
        silent = self._clock.monotonic() - self._answered_at
        return RETRY_SECONDS if silent < SHORT_SILENCE_SECONDS else LOOK_SECONDS

    def _is_over(self, sight: Sight) -> bool:
        if sight.now > self._until + timedelta(seconds=LAG_SECONDS):
            return True
        return self._reaper.is_closed(self._run_id)

    def _rest(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            self._clock.sleep(min(left, SLICE_SECONDS))
