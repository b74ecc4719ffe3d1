"""What to do next for a run: pure decisions from its record and what was just seen.

No IO and no clock of its own: `Seen.now` is the store's time. The loop writes the record that comes back
before it carries out the actions, so that nothing is created that was not written down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from job.contract.events import Failed, Finished, Progress, TrainingStarted
from job.contract.manifest import expected_artefacts
from job.contract.reasons import Reason
from job.contract.records import ArtefactKind, Claim, Heartbeat, Receipt, Stage
from launcher.budget import Window, window
from launcher.model import Attempt, Ending, Missing, Phase, RunRecord, Watch, seconds_between
from launcher.outcome import outcome
from launcher.ports import Offer, Pod, PodState
from launcher.selection import select

WATCH_GAP_SECONDS = 60.0
"""The most that one gap between two passes adds to a silence: a laptop that slept saw nothing."""
REFUSALS_MAX = 20
"""Offers that may refuse in a row before the run ends."""
PRICE_TOLERANCE = 1e-6
"""Dollars an hour within which two prices are the same."""


class Probe(StrEnum):
    """What the provider says of an attempt's pods. Only `dead` is a ground to give one up."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class AttemptSeen:
    """What was seen of one attempt on this pass. None: that side did not answer."""

    pods: tuple[Pod, ...] | None = None
    """Every existing pod of this attempt's name or recorded ids."""
    storage: bool = False
    """Whether the store answered; without it the fields below say nothing."""
    claim: Claim | None = None
    heartbeat: Heartbeat | None = None
    heartbeat_at: datetime | None = None
    """By the store's clock."""
    started: TrainingStarted | None = None
    progress: Progress | None = None
    terminal: Failed | Finished | None = None
    receipts: tuple[Receipt, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What was seen on one pass."""

    now: datetime
    attempts: dict[int, AttemptSeen] = field(default_factory=dict)
    offers: tuple[Offer, ...] | None = None
    """None: the provider did not say, or was not asked."""

    def of(self, attempt: Attempt) -> AttemptSeen:
        """Return what was seen of an attempt."""
        return self.attempts.get(attempt.number, AttemptSeen())


@dataclass(frozen=True)
class Create:
    """Ask for the pod of an attempt whose intent is on record."""

    attempt: int
    offer: Offer


@dataclass(frozen=True)
class Terminate:
    """Ask for a pod's end."""

    attempt: int
    pod_id: str


@dataclass(frozen=True)
class Pull:
    """Bring an artefact home."""

    attempt: int
    receipt: Receipt


@dataclass(frozen=True)
class Close:
    """Promote the selected checkpoint, then write the closed record, then give the name free."""

    record: RunRecord


Action = Create | Terminate | Pull | Close


@dataclass(frozen=True)
class Decision:
    """The record as it should be written now, and what to do after that, in order."""

    record: RunRecord
    actions: tuple[Action, ...] = ()


def pod_name(record: RunRecord, number: int, hard_deadline: datetime) -> str:
    """Return a pod's name: unique to the attempt, and it says by itself when it must be gone."""
    return f"retrain-{record.spec.namespace}-{record.run_id}-{number}-{int(hard_deadline.timestamp())}"


def wants_offers(record: RunRecord) -> bool:
    """Whether the next pass may start an attempt and needs to know what is on offer."""
    return not record.phase.closed and all(attempt.gone_at for attempt in record.attempts)


def decide(record: RunRecord, seen: Seen) -> Decision:
    """Return what follows for `record` from what was seen."""
    if record.phase.closed:
        return Decision(record)
    for attempt in record.attempts:
        if attempt.gone_at is None:
            record = record.with_attempt(_judge(record, attempt, seen))
    actions: list[Action] = []
    for attempt in record.attempts:
        actions += _to_terminate(attempt, seen.of(attempt))
    pulls = _to_pull(record, seen)
    actions += pulls
    record = _mark_collected(record, seen, pulls)
    if any(attempt.gone_at is None for attempt in record.attempts):
        return Decision(record.model_copy(update={"phase": _phase(record, seen, pulls)}), tuple(actions))
    if _wants_another(record):
        decision = _start_attempt(record, seen, actions)
        if decision.record.stopped is None:
            return decision
        record = decision.record
    return _settle(record, seen, pulls, actions)


def probe(attempt: Attempt, seen: AttemptSeen, now: datetime, lag_seconds: float) -> Probe:
    """Tell whether an attempt's pods are alive, proven dead, or not known."""
    if seen.pods is None:
        return Probe.UNKNOWN
    if any(pod.state is not PodState.ENDED for pod in seen.pods):
        return Probe.ALIVE
    if seen.pods:
        return Probe.DEAD
    # Absent. A young pod may be missing from a list that lags, and so may one whose creation is unsure.
    since = attempt.created_at or attempt.intent_at
    return Probe.DEAD if seconds_between(since, now) > lag_seconds else Probe.UNKNOWN


def _judge(record: RunRecord, attempt: Attempt, seen: Seen) -> Attempt:
    """Fold one pass's sight of an attempt into its record: adopt, watch, end, confirm its absence."""
    sight = seen.of(attempt)
    attempt = _adopt(attempt, sight, seen.now)
    attempt = _note_progress(attempt, sight, seen.now)
    attempt = attempt.model_copy(update={"watch": _watch(attempt.watch, sight, seen.now)})
    if attempt.ended is None:
        ending = _ending(record, attempt, sight, seen.now)
        if ending:
            attempt = attempt.model_copy(update={"ended": ending})
    elif _confirmed_gone(record, attempt, sight, seen.now):
        attempt = attempt.model_copy(update={"gone_at": seen.now})
    return attempt


def _adopt(attempt: Attempt, sight: AttemptSeen, now: datetime) -> Attempt:
    """Take every pod that carries the attempt's name as the attempt's own."""
    pods = sight.pods or ()
    unknown = tuple(pod.pod_id for pod in pods if pod.pod_id not in attempt.pod_ids)
    if not pods:
        return attempt
    update: dict[str, object] = {"price_per_hour": max(pod.price_per_hour for pod in pods)}
    if attempt.price_per_hour is not None:
        # A pod that ended costs nothing now; what it cost an hour is what counts.
        update["price_per_hour"] = max(attempt.price_per_hour, *(pod.price_per_hour for pod in pods))
    if unknown:
        update |= {
            "pod_ids": attempt.pod_ids + unknown,
            "console_url": attempt.console_url or pods[0].console_url,
        }
    if attempt.created_at is None:
        # The provider's word, kept within what we know: not before the intent, not in the future.
        update["created_at"] = min(max(min(pod.created_at for pod in pods), attempt.intent_at), now)
    return attempt.model_copy(update=update)


def _note_progress(attempt: Attempt, sight: AttemptSeen, now: datetime) -> Attempt:
    update: dict[str, object] = {}
    if sight.claim is not None and attempt.booted_at is None:
        update["booted_at"] = now
    if sight.started is not None:
        update["total_steps"] = sight.started.total_steps
    if sight.progress is not None:
        update |= {"epoch": sight.progress.epoch, "step": sight.progress.step}
    return attempt.model_copy(update=update) if update else attempt


def _watch(watch: Watch, sight: AttemptSeen, now: datetime) -> Watch:
    """Count silence: only between two passes that both saw store and provider."""
    if not sight.storage or sight.pods is None:
        return watch.model_copy(update={"last_pass_at": None})
    if sight.heartbeat_at != watch.heartbeat_at or watch.last_pass_at is None:
        silent = 0.0 if sight.heartbeat_at != watch.heartbeat_at else watch.silent_seconds
    else:
        gap = min(seconds_between(watch.last_pass_at, now), WATCH_GAP_SECONDS)
        silent = watch.silent_seconds + gap
    return Watch(heartbeat_at=sight.heartbeat_at, silent_seconds=silent, last_pass_at=now)


def _ending(record: RunRecord, attempt: Attempt, sight: AttemptSeen, now: datetime) -> Ending | None:
    """Return why an open attempt is over, or None. The job's word comes first, then facts, then clocks."""
    clocks = record.spec.clocks

    def because(reason: Reason | None, message: str) -> Ending:
        return Ending(reason=reason, message=message, at=now)

    if isinstance(sight.terminal, Finished):
        return because(None, "the job finished its work")
    if isinstance(sight.terminal, Failed):
        return because(sight.terminal.reason, sight.terminal.message)
    if record.cancel_requested:
        return because(Reason.CANCELLED, "cancelled on request")
    if now >= attempt.hard_deadline:
        return because(Reason.HARD_DEADLINE, "the hard deadline passed")
    price = attempt.price_per_hour
    if price is not None and price > attempt.price_ceiling + PRICE_TOLERANCE:
        return because(
            Reason.PRICE_ABOVE_CEILING,
            f"the pod costs ${price:.3f} an hour, above the ceiling of ${attempt.price_ceiling:.3f}",
        )
    state = probe(attempt, sight, now, clocks.create_lag_seconds)
    if state is Probe.UNKNOWN or not sight.storage:
        # Without the store nobody knows whether the job said its last word or is silent.
        return None
    if state is Probe.DEAD:
        if attempt.pod_ids:
            return because(Reason.POD_GONE, "the pod ended without a word from the job")
        return because(Reason.CREATE_REFUSED, "no pod of this attempt's name ever appeared")
    if attempt.booted_at is not None:
        silent = attempt.watch.silent_seconds
        return (
            because(Reason.SILENT, f"no heartbeat for {silent:.0f} s")
            if silent > clocks.silence_seconds
            else None
        )
    age = seconds_between(attempt.created_at or attempt.intent_at, now)
    running = any(pod.state is PodState.RUNNING for pod in sight.pods or ())
    if not running and age > clocks.provision_seconds:
        return because(Reason.PROVISION_TIMEOUT, f"the pod does not run {age:.0f} s after its creation")
    if age > clocks.boot_seconds:
        return because(Reason.BOOT_TIMEOUT, f"the job has not claimed its attempt after {age:.0f} s")
    return None


def _confirmed_gone(record: RunRecord, attempt: Attempt, sight: AttemptSeen, now: datetime) -> bool:
    """Whether the provider acknowledged every end, shows no such pod, and has had time to show a late one."""
    return (
        sight.pods == ()
        and set(attempt.pod_ids) <= set(attempt.acknowledged)
        and seconds_between(attempt.intent_at, now) > record.spec.clocks.create_lag_seconds
    )


def _to_terminate(attempt: Attempt, sight: AttemptSeen) -> list[Terminate]:
    """Pods to end: all of an ended attempt, and those that lost the claim of an open one."""
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


def _to_pull(record: RunRecord, seen: Seen) -> list[Pull]:
    """Artefacts that are vouched for and not at home. A key that no manifest listed is not ours to fetch."""
    known = set(expected_artefacts(record.spec.recipe, record.spec.evaluation))
    return [
        Pull(attempt.number, receipt)
        for attempt in record.attempts
        for receipt in seen.of(attempt).receipts
        if receipt.kind is not ArtefactKind.STATE
        and (receipt.attempt, receipt.run_id) == (attempt.number, record.run_id)
        and receipt.key in known
        and not record.is_home(receipt)
        and not record.is_given_up(receipt)
    ]


def _mark_collected(record: RunRecord, seen: Seen, pulls: Sequence[Pull]) -> RunRecord:
    """An attempt whose pods are gone and whose artefacts are all home need not be looked at again."""
    for attempt in record.attempts:
        waiting = any(pull.attempt == attempt.number for pull in pulls)
        if attempt.gone_at and not attempt.collected and seen.of(attempt).storage and not waiting:
            record = record.with_attempt(attempt.model_copy(update={"collected": True}))
    return record


def _phase(record: RunRecord, seen: Seen, pulls: Sequence[Pull]) -> Phase:
    """Name where a run stands while one of its attempts is not gone."""
    attempt = next(item for item in reversed(record.attempts) if item.gone_at is None)
    if attempt.ended is not None:
        if seconds_between(attempt.ended.at, seen.now) > record.spec.clocks.leak_seconds:
            return Phase.LEAKED
        return Phase.COLLECTING if pulls else Phase.TEARING_DOWN
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
        ending = Ending(reason=reason, message=message, at=seen.now)
        return Decision(record.model_copy(update={"stopped": ending}), tuple(actions))

    if seen.offers is None:
        return Decision(record, tuple(actions))
    ceiling = record.spec.budget.price_ceiling
    offers = [offer for offer in seen.offers if ceiling is None or offer.price_per_hour <= ceiling]
    if not offers:
        wanted = (
            "offers a machine" if ceiling is None else f"offers a machine for ${ceiling:.3f} an hour or less"
        )
        return stop(Reason.NO_OFFER, f"{record.spec.provider} no longer {wanted}")
    if sum(attempt.refused for attempt in record.attempts) >= REFUSALS_MAX:
        return stop(Reason.NO_OFFER, f"{REFUSALS_MAX} offers in a row could not be had")
    number = len(record.attempts) + 1
    offer = offers[(number - 1) % len(offers)]
    price_ceiling = offer.price_per_hour if ceiling is None else ceiling
    span = window(record, price_ceiling, seen.now)
    if span is None:
        return stop(Reason.CAP_REACHED, "the cap leaves no time for another attempt")
    attempt = _intent(record, number, offer, price_ceiling, span, seen.now)
    record = record.with_attempt(attempt).model_copy(update={"phase": Phase.PROVISIONING})
    return Decision(record, (*actions, Create(number, offer)))


def _intent(
    record: RunRecord, number: int, offer: Offer, price_ceiling: float, span: Window, now: datetime
) -> Attempt:
    return Attempt(
        number=number,
        pod_name=pod_name(record, number, span.hard_deadline),
        offer=offer.name,
        offer_location=offer.location,
        intent_at=now,
        price_ceiling=price_ceiling,
        stop_at=span.stop_at,
        hard_deadline=span.hard_deadline,
    )


def _settle(record: RunRecord, seen: Seen, pulls: Sequence[Pull], actions: list[Action]) -> Decision:
    """All pods are gone and no further one is wanted: collect what is left, then close."""
    waiting = [attempt for attempt in record.attempts if not attempt.collected]
    if waiting:
        last_gone = max(attempt.gone_at or seen.now for attempt in record.attempts)
        if seconds_between(last_gone, seen.now) <= record.spec.clocks.collect_seconds:
            return Decision(record.model_copy(update={"phase": Phase.COLLECTING}), tuple(actions))
        lost = tuple(
            Missing(
                attempt=pull.attempt,
                key=pull.receipt.key,
                sha256=pull.receipt.sha256,
                why="could not be fetched in time",
            )
            for pull in pulls
        )
        record = record.model_copy(update={"missing": record.missing + lost})
    closed = record.model_copy(
        update={"phase": outcome(record).phase, "selection": select(record), "closed_at": seen.now}
    )
    return Decision(record, (Close(closed),))
