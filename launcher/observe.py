"""One look at a run: its pods, and what its pod wrote to the bucket. Reads only; errors become `unknown`.

Knows the ports. Pods are looked at before the bucket: a pod found dead has said its last word by then.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from job.contract import keys
from job.contract.events import Event, Failed, Finished, Progress, TrainingStarted, decode_log
from job.contract.records import Claim, Heartbeat, Receipt
from job.contract.schema import ContractError, M, decode
from launcher.errors import ObjectMissing, PodError, StorageError
from launcher.judgement import AttemptSeen, plain
from launcher.model import Attempt, RunRecord, seconds_between
from launcher.money.pace import pace_of
from launcher.ports import Pod, Pods, PodState, Store, Stored
from launcher.reconcile import Seen, wants_offers
from launcher.roster import Roster

E = TypeVar("E", bound=Event)
_POD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}")
"""What may be an id at all: a claim is a pod's own word, and goes into a request."""

BOOT_LOG_SECONDS = 30.0
"""Between two looks at how a pod comes up: a provider may take seconds to tell."""
MESSAGE_BYTES_MAX = 64 * 1024**2
"""No message of a pod is larger; what is was not written by our job."""


@dataclass
class Observer:
    """Looks at one run again and again, and fetches again only what changed."""

    store: Store
    pods: Pods
    record: RunRecord
    watched: bool = True
    """Whether somebody looks on; else how a pod comes up is asked only where its boot may be given up."""
    troubles: list[str] = field(default_factory=list)
    """What did not answer on the last pass, in words for a person."""
    events: dict[int, tuple[Event, ...]] = field(default_factory=dict)
    """All events of each attempt seen so far, life after life."""
    _cache: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    _boot_logs: dict[int, tuple[datetime, str]] = field(default_factory=dict)

    def look(self, record: RunRecord, roster: Roster) -> Seen:
        """Return what is to be seen now. Raises StorageError when the store does not even tell the time."""
        self.record = record
        self.troubles.clear()
        attempts = {attempt.number: self._attempt(attempt, roster) for attempt in record.attempts}
        offers, no_offers = None, ""
        if wants_offers(record):
            try:
                offers = tuple(roster.offers())
            except PodError as error:
                no_offers = str(error)
                self.troubles.append(no_offers)
        return Seen(now=self.store.now(), attempts=attempts, offers=offers, no_offers=no_offers)

    def _attempt(self, attempt: Attempt, roster: Roster) -> AttemptSeen:
        # Gone attempts, too: a request that was on its way for very long may have been served since.
        shown = AttemptSeen(pods=self._pods_of(attempt, roster), listed_at=roster.at)
        if attempt.collected:
            return shown
        try:
            seen = self._stored(attempt, shown)
            if seen.claim is None or seen.pods != () or seen.claim.pod_id in attempt.pod_ids:
                return seen
            # The pod after the list, so the bucket again: a pod found dead has said its last word by then.
            return self._stored(attempt, replace(shown, pods=self._claimed(attempt, seen.claim, roster)))
        except StorageError as error:
            self.troubles.append(str(error))
            return shown

    def _pods_of(self, attempt: Attempt, roster: Roster) -> tuple[Pod, ...] | None:
        if attempt.asked_at is None:
            return ()
        try:
            return roster.pods_of(attempt)
        except PodError as error:
            self.troubles.append(str(error))
            return None

    def _claimed(self, attempt: Attempt, claim: Claim, roster: Roster) -> tuple[Pod, ...] | None:
        """Return the pod that claimed an attempt of which no list shows any."""
        try:
            return roster.claimed(attempt, claim.pod_id)
        except PodError as error:
            self.troubles.append(str(error))
            return None

    def _stored(self, attempt: Attempt, shown: AttemptSeen) -> AttemptSeen:
        prefix = keys.attempt_prefix(self.record.run_id, attempt.number)
        listed = {item.key.removeprefix(prefix): item for item in self.store.list(prefix)}
        # Who claimed it matters between two pods, and where no list showed one.
        rivals = {*attempt.pod_ids, *(pod.pod_id for pod in shown.pods or ())}
        written = [keys.claim(life) for life in keys.lives()] if len(rivals) != 1 else []
        claims = [
            claim
            for claim in self._messages(Claim, written, listed, prefix)
            if _POD_ID.fullmatch(claim.pod_id)
        ]
        beats = [listed[key] for life in keys.lives() if (key := keys.heartbeat(life)) in listed]
        # Telemetry may fail: what the job says is a sign of life as good as its heartbeat.
        said = [listed[key] for life in keys.lives() if (key := keys.events(life)) in listed]
        latest = max([*beats, *said], key=lambda item: item.modified_at, default=None)
        heartbeats = self._messages(
            Heartbeat, [item.key.removeprefix(prefix) for item in beats], listed, prefix
        )
        receipts = self._messages(
            Receipt, [key for key in listed if key.endswith(keys.RECEIPT_SUFFIX)], listed, prefix
        )
        events = self._events(attempt, listed)
        return replace(
            shown,
            storage=True,
            claim=claims[0] if claims else None,
            heartbeat=heartbeats[-1] if heartbeats else None,
            heartbeat_at=latest.modified_at if latest else None,
            events=len(events),
            started=_last(events, TrainingStarted),
            progress=_last(events, Progress),
            terminal=_last_word(events),
            pace=pace_of(events),
            receipts=tuple(receipts),
            boot_log=self._boot_log(attempt, shown) if not events else "",
        )

    def _boot_log(self, attempt: Attempt, shown: AttemptSeen) -> str:
        """Return how the pod of an attempt comes up, as last asked; its job has not said a word yet."""
        coming = [pod for pod in shown.pods or () if pod.state is PodState.STARTING]
        if not coming or not attempt.open:
            return ""
        if not self.watched and not _is_slow(attempt, self.record, shown.listed_at):
            return ""
        now = self.store.now()
        asked_at, line = self._boot_logs.get(attempt.number, (None, ""))
        if asked_at is None or seconds_between(asked_at, now) >= BOOT_LOG_SECONDS:
            with suppress(PodError):  # only a hint: the pod's own clocks go on without it
                line = self.pods.boot_log(coming[0].pod_id)
            self._boot_logs[attempt.number] = (now, line)
        return line

    def _events(self, attempt: Attempt, listed: dict[str, Stored]) -> tuple[Event, ...]:
        found: list[Event] = []
        for life in keys.lives():
            if (key := keys.events(life)) not in listed:
                continue
            try:
                log = decode_log(self._content(listed[key]))
            except (ContractError, ObjectMissing) as error:
                self.troubles.append(f"{key} of attempt {attempt.number}: {plain(str(error))}")
                continue
            found += [event for event in log if (event.attempt, event.life) == (attempt.number, life)]
        self.events[attempt.number] = tuple(found)
        return tuple(found)

    def _messages(
        self, kind: type[M], names: Sequence[str], listed: dict[str, Stored], prefix: str
    ) -> list[M]:
        found = []
        for name in names:
            if name not in listed:
                continue
            try:
                found.append(decode(kind, self._content(listed[name])))
            except (ContractError, ObjectMissing) as error:
                self.troubles.append(f"{prefix}{name}: {plain(str(error))}")
        return found

    def _content(self, item: Stored) -> bytes:
        """Return an object's content, from memory as long as its ETag is the same."""
        known = self._cache.get(item.key)
        if known is not None and known[0] == item.etag:
            return known[1]
        if item.size > MESSAGE_BYTES_MAX:
            raise ContractError(f"{item.size} bytes are too many for a message")
        data, etag = self.store.get(item.key)
        self._cache[item.key] = (etag, data)
        return data


def _is_slow(attempt: Attempt, record: RunRecord, now: datetime | None) -> bool:
    """Whether a pod has come up for so long without a word that its boot may be given up soon."""
    if now is None:
        return True
    silent = seconds_between(attempt.progress_at or attempt.created_at or attempt.intent_at, now)
    return silent > record.spec.clocks.boot_seconds / 2


def _last_word(events: Sequence[Event]) -> Failed | Finished | None:
    """Return the terminal event, if a job said one."""
    for event in reversed(events):
        if isinstance(event, Failed | Finished):
            return event
    return None


def _last(events: Sequence[Event], kind: type[E]) -> E | None:
    """Return the newest event of one kind."""
    for event in reversed(events):
        if isinstance(event, kind):
            return event
    return None
