"""Watches a canary's pod come, work and go, and measures it. Asks for nothing; knows the ports."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from job.contract import keys
from job.contract.events import Booted, Event, Hinted, decode_log
from job.contract.schema import ContractError
from launcher.actions import RENEWALS, World
from launcher.errors import ObjectMissing, PodError, StorageError
from launcher.judgement import PRICE_TOLERANCE, plain
from launcher.model import RunRecord, seconds_between
from launcher.ports import Pod, PodState

PATIENCE_SECONDS = 180.0
"""From a job's last word: a pod that is there after that does not end itself."""
LOOK_SECONDS = 2.0
BOOT_LOG_SECONDS = 20.0
"""Between two looks at how the pod comes up: the provider takes seconds to tell."""
HINT_LENGTH = 100
_SAID = re.compile(r"asked RunPod to end this pod \((?P<api>\w+)\); (?P<answer>acknowledged|not ended)")
"""What the job prints of its attempts to end its pod."""


class Moment(StrEnum):
    """What happens to a canary, and how it is told."""

    LISTED = "the list shows the canary's pod"
    SHOWN = "the canary's pod is shown by its id"
    SPOKE = "the canary's job runs and reaches the bucket"
    LAST_WORD = "the canary's job is done and is to end its pod now"
    GONE = "neither list nor id show the canary's pod any more"


@dataclass
class Sighting:
    """What was seen of a canary's pod."""

    moments: dict[Moment, float] = field(default_factory=dict)
    """When it was first seen, in seconds since the pod was made. Upper bounds: a look comes now and then."""
    overstayed: bool = False
    """Whether the pod had its time after the job's last word, and was there all the same."""
    forgotten: bool = False
    """Whether the provider, asked for the pod's end once it was absent, did not know it any more."""
    answers: dict[str, bool] = field(default_factory=dict)
    """API → whether it said yes to the pod's own key, as far as the job's output told."""
    hints: dict[str, str] = field(default_factory=dict)
    """What the job said of its machine, and of what its pod's key can see."""


class Watch:
    """Looks at the newest attempt of a run until its pod is gone or its time is over."""

    def __init__(self, world: World, record: RunRecord) -> None:
        self._world = world
        self._record = record
        self._attempt = record.attempts[-1]
        self._began = world.clock.monotonic()
        self._absent_since: float | None = None
        self._boot_log_at = 0.0
        self._price = 0.0
        self._told = ""
        self.seen = Sighting()

    def run(self, *, keep: Callable[[], None]) -> None:
        """Watch. `keep` renews the lease and is called often enough; what it raises goes on up."""
        attempt, moments = self._attempt, self.seen.moments
        until = seconds_between(attempt.created_at or attempt.intent_at, attempt.stop_at)
        every = self._record.spec.clocks.lease_seconds / RENEWALS
        kept_at = 0.0
        while Moment.GONE not in moments and not self.seen.overstayed and (now := self._elapsed()) < until:
            if now - kept_at > every:
                keep()
                kept_at = now
            self._world.clock.sleep(LOOK_SECONDS)
            try:
                self._look()
            except (PodError, StorageError) as error:
                self._say(f"the canary's pod cannot be looked at: {error}")
            if self._price > attempt.price_ceiling + PRICE_TOLERANCE:
                self._say(f"the canary's pod costs ${self._price:.3f} an hour, more than was offered")
                return

    def _elapsed(self) -> float:
        return self._world.clock.monotonic() - self._began

    def _look(self) -> None:
        pods, moments = self._world.pods, self.seen.moments
        named = pods.find(self._attempt.pod_name)
        shown = [pod for pod_id in self._attempt.pod_ids if (pod := pods.get(pod_id)) is not None]
        at = self._elapsed()
        if named:
            self._note(Moment.LISTED, at)
        if shown:
            self._note(Moment.SHOWN, at)
        self._price = max([self._price, *(pod.price_per_hour for pod in (*named, *shown))])
        self._read_events()
        if named or shown:
            self._absent_since = None
            self.seen.overstayed = at - moments.get(Moment.LAST_WORD, at) > PATIENCE_SECONDS
        elif Moment.LISTED in moments or Moment.SHOWN in moments:
            self._note_absence(at)
        if shown:
            self._read_log(shown[0])

    def _note_absence(self, at: float) -> None:
        """Believe an absence that lasted longer than a pod that is there may be missed."""
        if self._absent_since is None:
            self._absent_since = at
        if at - self._absent_since > self._record.spec.clocks.create_lag_seconds:
            self._note(Moment.GONE, self._absent_since)

    def _read_events(self) -> None:
        """Read what the job wrote to the bucket."""
        events: list[Event] = []
        prefix = keys.attempt_prefix(self._record.run_id, self._attempt.number)
        for life in keys.lives():
            try:
                events += decode_log(self._world.store.get(prefix + keys.events(life))[0])
            except (ObjectMissing, ContractError):
                continue
        at = self._elapsed()
        if events:
            self._note(Moment.SPOKE, at)
        for event in events:
            if isinstance(event, Booted | Hinted):
                told = {name[:HINT_LENGTH]: plain(text)[:HINT_LENGTH] for name, text in event.hints.items()}
                self.seen.hints.update(told)
            if event.terminal:
                self._note(Moment.LAST_WORD, at)

    def _read_log(self, pod: Pod) -> None:
        """Say how the pod comes up; once it works, note which API heeds its own key: gone with the pod."""
        moments, now = self.seen.moments, self._elapsed()
        if Moment.SPOKE not in moments:
            # Not before lags are measured: this takes seconds.
            if Moment.LISTED in moments and now - self._boot_log_at > BOOT_LOG_SECONDS:
                self._boot_log_at = now
                line = plain(self._world.pods.boot_log(pod.pod_id))
                self._say(f"the canary's pod comes up: {line}" if line else "")
        elif pod.state is PodState.RUNNING:
            for said in filter(None, map(_SAID.search, self._world.pods.logs(pod.pod_id))):
                heeded = said["answer"] == "acknowledged"
                self.seen.answers[said["api"]] = heeded or self.seen.answers.get(said["api"], False)

    def _note(self, moment: Moment, at: float) -> None:
        """Keep when something was first seen, and tell it."""
        if moment not in self.seen.moments:
            self.seen.moments[moment] = at
            self._say(f"{moment}, after {at:.0f} s")

    def _say(self, words: str) -> None:
        if words and words != self._told:
            self._told = words
            self._world.notifier.say(words)
