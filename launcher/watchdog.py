"""Stays beside one run and ends its pods at their hard deadlines, whatever became of the launcher.

Needs nobody but the provider: names carry deadlines. The store, where it answers, says when the run is over.
Knows the ports and the reaper.
"""

from datetime import datetime, timedelta

from launcher.errors import PodError
from launcher.ports import Clock, Notifier
from launcher.reaper import Reaper, Sight

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
SILENCE_SECONDS_MAX = 7 * 24 * 3600.0
"""After so long without an answer of the provider nobody is served by asking on."""


class Watchdog:
    """Watches over the pods of one run."""

    def __init__(
        self, reaper: Reaper, clock: Clock, notifier: Notifier, *, run_id: str, until: datetime
    ) -> None:
        """`until` is when the run's time is over: no attempt's deadline lies later."""
        self._reaper = reaper
        self._clock = clock
        self._notifier = notifier
        self._run_id = run_id
        self._until = until
        self._answered_at = clock.monotonic()
        self._seen_none = False
        """Whether the last look saw no pod of the run."""

    def watch(self) -> bool:
        """Return when the run is over and none of its pods is left; False when nobody could tell any more."""
        while (pause := self._look()) is not None:
            if self._clock.monotonic() - self._answered_at > SILENCE_SECONDS_MAX:
                self._notifier.say("the provider has been silent for too long: giving up")
                return False
            self._rest(pause)
        return True

    def _look(self) -> float | None:
        """End what must end; return the seconds until the next look, None when nothing is left to do."""
        try:
            sight = self._reaper.look()
        except PodError as error:
            self._notifier.say(f"the provider does not answer: {error}")
            return RETRY_SECONDS
        except Exception as error:  # noqa: BLE001 - the last layer outlives what one look stumbles over
            self._notifier.say(f"unexpected {type(error).__name__}, a bug in retrain; looking again")
            return RETRY_SECONDS
        self._answered_at = self._clock.monotonic()
        if sight.due:
            for verdict in sight.due:
                self._notifier.say(f"ending pod {verdict.pod.pod_id}: {verdict.why}")
            left = self._reaper.end(sight.due, seconds=END_SECONDS)
            gone = [item.pod.pod_id for item in sight.due if item not in left]
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

    def _is_over(self, sight: Sight) -> bool:
        if sight.now > self._until + timedelta(seconds=LAG_SECONDS):
            return True
        return self._reaper.is_closed(self._run_id)

    def _rest(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            self._clock.sleep(min(left, SLICE_SECONDS))
