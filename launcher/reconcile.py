"""What to do next for a run: pure decisions from its record and what was just seen.

No IO and no clock of its own: `Seen.now` is the store's time. The loop writes the record that comes back
before it carries out the actions, so that nothing is created that was not written down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from job.contract.manifest import expected_results
from job.contract.reasons import Reason
from job.contract.records import Receipt, Stage
from launcher.judgement import AttemptSeen, judge, reopened, shows_again
from launcher.model import Attempt, Ending, Missing, Phase, RunRecord, seconds_between
from launcher.money.budget import Window, ceiling_of, window
from launcher.money.choice import NoChoice, Pause, choose, is_waiting, wait, waits_since
from launcher.money.forecast import outlook
from launcher.naming import PodName
from launcher.outcome import outcome
from launcher.ports import Offer
from launcher.selection import select
from launcher.timekeeping import clock_trouble

GAP_SECONDS_MAX = 300.0
"""The most that the time between two passes adds to any clock: a laptop that slept saw and tried nothing."""


@dataclass(frozen=True)
class Seen:
    """What was seen on one pass."""

    now: datetime
    attempts: dict[int, AttemptSeen] = field(default_factory=dict)
    offers: tuple[Offer, ...] | None = None
    """None: the provider did not say, or was not asked."""
    no_offers: str = ""
    """Why the provider did not say."""
    drift_seconds: float = 0.0
    """What the store's clock went ahead of this machine's since this launcher last looked."""

    def of(self, attempt: Attempt) -> AttemptSeen:
        """Return what was seen of an attempt."""
        return self.attempts.get(attempt.number, AttemptSeen())


@dataclass(frozen=True)
class Create:
    """Ask for the pod of an attempt whose intent is on record and that nobody has asked for yet."""

    attempt: int


@dataclass(frozen=True)
class Terminate:
    """Ask for a pod's end."""

    attempt: int
    pod_id: str


@dataclass(frozen=True)
class Pull:
    """Bring artefacts home."""

    receipts: tuple[Receipt, ...]


@dataclass(frozen=True)
class Close:
    """Make sure that all is at home, promote the selected checkpoint, write the closed record."""

    record: RunRecord


Action = Create | Terminate | Pull | Close


@dataclass(frozen=True)
class Decision:
    """The record as it should be written now, and what to do after that, in order."""

    record: RunRecord
    actions: tuple[Action, ...] = ()
    held_back: str = ""
    """Why a pod that is called for is not asked for now."""


def wants_offers(record: RunRecord) -> bool:
    """Whether the next pass may start an attempt and needs to know what is on offer."""
    return not record.phase.closed and record.all_gone and _wants_another(record)


def decide(record: RunRecord, seen: Seen) -> Decision:
    """Return what follows for `record` from what was seen."""
    if record.phase.closed:
        return Decision(record)
    trouble = clock_trouble(record, seen.now, seen.drift_seconds)
    gap = min(seconds_between(record.passed_at or seen.now, seen.now), GAP_SECONDS_MAX)
    record = record.model_copy(update={"passed_at": seen.now})
    for attempt in record.attempts:
        if shows_again(attempt, seen.of(attempt)):
            record = record.with_attempt(reopened(attempt))
    for attempt in record.attempts:
        if attempt.gone_at is None:
            record = record.with_attempt(judge(record, attempt, seen.of(attempt), seen.now, gap))
    record = _note_outlook(record, seen.now)
    actions: list[Action] = []
    for attempt in record.attempts:
        actions += _to_terminate(attempt, seen.of(attempt))
    away = _not_home(record, seen)
    if away:
        actions.append(Pull(away))
    record = _mark_collected(record, seen, away)
    if not record.all_gone:
        unasked = [Create(item.number) for item in record.attempts if item.open and item.asked_at is None]
        actions += [] if trouble else unasked
        record = _leaked(_in_phase(record, seen, away), seen.now)
        return Decision(record, tuple(actions), trouble if unasked else "")
    if _wants_another(record):
        if trouble:
            return Decision(record, tuple(actions), trouble)
        decision = _start_attempt(record, seen, actions)
        if decision.record.stopped is None:
            return decision
        record = decision.record
    return _settle(record, seen, away, actions, gap)


def _note_outlook(record: RunRecord, now: datetime) -> RunRecord:
    """Note when an attempt's measured speed first says that it will not finish in its time."""
    attempt, expected = record.last, outlook(record, now)
    if attempt is None or expected is None or expected.finishes or attempt.falls_short_at is not None:
        return record
    return record.with_attempt(attempt.model_copy(update={"falls_short_at": now}))


def _to_terminate(attempt: Attempt, sight: AttemptSeen) -> list[Terminate]:
    """Pods to end: all of an ended attempt, and those that lost the claim of an open one.

    An acknowledged end is asked for again where the pod is to be seen: it may not have been known yet.
    """
    if attempt.gone_at is not None:
        return []
    visible = {pod.pod_id for pod in sight.pods or ()}
    if attempt.open:
        owner = sight.claim.pod_id if sight.claim else None
        doomed = [pod_id for pod_id in attempt.pod_ids if owner in attempt.pod_ids and pod_id != owner]
    else:
        doomed = list(attempt.pod_ids)
    return [
        Terminate(attempt.number, pod_id)
        for pod_id in doomed
        if pod_id not in attempt.acknowledged or pod_id in visible
    ]


def _not_home(record: RunRecord, seen: Seen) -> tuple[Receipt, ...]:
    """Receipts of artefacts that are vouched for and not at home.

    A receipt that names another key, kind or epoch than a manifest listed vouches for nothing of ours.
    """
    expected = expected_results(record.spec.recipe, record.spec.evaluation)
    return tuple(
        receipt
        for attempt in record.attempts
        for receipt in seen.of(attempt).receipts
        if (receipt.attempt, receipt.run_id) == (attempt.number, record.run_id)
        and expected.get(receipt.key) == (receipt.kind, receipt.epoch)
        and not record.is_home(receipt)
        and not record.is_given_up(receipt)
    )


def _mark_collected(record: RunRecord, seen: Seen, away: Sequence[Receipt]) -> RunRecord:
    """An attempt whose pods are gone and whose artefacts are all home need not be looked at again."""
    for attempt in record.attempts:
        waiting = any(receipt.attempt == attempt.number for receipt in away)
        if attempt.gone_at and not attempt.collected and seen.of(attempt).storage and not waiting:
            record = record.with_attempt(attempt.model_copy(update={"collected": True}))
    return record


def _leaked(record: RunRecord, now: datetime) -> RunRecord:
    """Call a run LEAKED whose pod could not be ended for too long; such a run gets no further attempt."""
    limit = record.spec.clocks.leak_seconds
    if all(attempt.teardown_seconds <= limit for attempt in record.attempts if attempt.gone_at is None):
        return record
    ending = Ending(reason=Reason.LEAKED, message="a pod could not be confirmed gone in time", at=now)
    return record.model_copy(update={"phase": Phase.LEAKED, "stopped": record.stopped or ending})


def _in_phase(record: RunRecord, seen: Seen, away: Sequence[Receipt]) -> RunRecord:
    return record.model_copy(update={"phase": _phase(record, seen, away)})


def _phase(record: RunRecord, seen: Seen, away: Sequence[Receipt]) -> Phase:
    """Name where a run stands while one of its attempts is not gone."""
    attempt = next(item for item in reversed(record.attempts) if item.gone_at is None)
    if attempt.ended is not None:
        return Phase.COLLECTING if away else Phase.TEARING_DOWN
    sight = seen.of(attempt)
    if not attempt.pod_ids:
        return Phase.PROVISIONING
    if not sight.storage:
        return record.phase if record.phase is not Phase.STAGED else Phase.PROVISIONING
    if sight.heartbeat is not None and sight.heartbeat.stage in (Stage.EVALUATING, Stage.FINISHING):
        return Phase.EVALUATING
    return Phase.TRAINING if sight.started is not None else Phase.BOOTING


def _wants_another(record: RunRecord) -> bool:
    """Whether a further attempt is called for, now that every earlier pod is gone."""
    if record.cancel_requested or record.stopped is not None:
        return False
    last = record.last
    if last is None:
        return True
    if last.ended is None or last.ended.reason is None or last.ended.reason.would_fail_again:
        return False
    return sum(not attempt.refused for attempt in record.attempts) < record.spec.max_attempts


def _start_attempt(record: RunRecord, seen: Seen, actions: list[Action]) -> Decision:
    """Write down the next attempt's intent and ask for its pod; or say why there is none."""

    def stop(reason: Reason, message: str) -> Decision:
        if reason is Reason.CAP_REACHED and is_waiting(record):
            since = waits_since(record, seen.now)
            reason = Reason.NO_OFFER
            message = f"no machine could be had since {since:%H:%M} UTC, and now it is too late: {message}"
        ending = Ending(reason=reason, message=message, at=seen.now)
        return Decision(record.model_copy(update={"stopped": ending}), tuple(actions))

    if seconds_between(record.created_at, seen.now) >= record.spec.budget.max_seconds:
        return stop(Reason.CAP_REACHED, "the run's wall-clock limit has passed")
    if seen.offers is None and not seen.no_offers:
        return Decision(record, tuple(actions))
    chosen = (
        wait(record, seen.no_offers, seen.now)
        if seen.offers is None
        else choose(record, seen.offers, seen.now)
    )
    if isinstance(chosen, Pause):
        return Decision(record.model_copy(update={"waiting_since": chosen.since}), tuple(actions))
    if isinstance(chosen, NoChoice):
        return stop(chosen.reason, chosen.message)
    number = len(record.attempts) + 1
    price_ceiling = ceiling_of(record, chosen.price_per_hour)
    span = window(record, price_ceiling, seen.now)
    if span is None:
        return stop(Reason.CAP_REACHED, "the cap leaves no time for another attempt")
    attempt = _intent(record, number, chosen, price_ceiling, span, seen.now)
    record = record.with_attempt(attempt).model_copy(update={"phase": Phase.PROVISIONING})
    return Decision(record, (*actions, Create(number)))


def _intent(
    record: RunRecord, number: int, offer: Offer, price_ceiling: float, span: Window, now: datetime
) -> Attempt:
    return Attempt(
        number=number,
        pod_name=str(PodName(record.spec.namespace, record.run_id, number, span.hard_deadline)),
        offer=offer.name,
        offer_location=offer.location,
        intent_at=now,
        price_ceiling=price_ceiling,
        stop_at=span.stop_at,
        hard_deadline=span.hard_deadline,
    )


def _settle(
    record: RunRecord, seen: Seen, away: Sequence[Receipt], actions: list[Action], gap: float
) -> Decision:
    """All pods are gone and no further one is wanted: collect what is left, then close."""
    uncollected = [attempt for attempt in record.attempts if not attempt.collected]
    if uncollected:
        # Only who sees what there is can try to fetch it, and name what is given up.
        looked = all(seen.of(attempt).storage for attempt in uncollected)
        if record.collecting_seconds <= record.spec.clocks.collect_seconds or not looked:
            tried = gap if looked and record.phase is Phase.COLLECTING else 0.0
            update = {"phase": Phase.COLLECTING, "collecting_seconds": record.collecting_seconds + tried}
            return Decision(record.model_copy(update=update), tuple(actions))
        lost = tuple(
            Missing(
                attempt=receipt.attempt,
                key=receipt.key,
                sha256=receipt.sha256,
                why="could not be fetched in time",
            )
            for receipt in away
        )
        record = record.model_copy(update={"missing": record.missing + lost})
    closed = record.model_copy(
        update={"phase": outcome(record).phase, "selection": select(record), "closed_at": seen.now}
    )
    return Decision(record.model_copy(update={"phase": Phase.COLLECTING}), (Close(closed),))
