"""What one pass tells of one attempt: alive or not, progress, silence, why it is over, whether it is gone.

Pure. `now` is the store's time; `gap` the seconds since the last pass, bounded, that clocks go on by.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from job.contract.events import Failed, Finished, Progress, TrainingStarted
from job.contract.reasons import Reason
from job.contract.records import Claim, Heartbeat, Receipt, Stage
from launcher.model import Attempt, Ending, RunRecord, Watch, seconds_between
from launcher.money.pace import Pace
from launcher.ports import Pod, PodState

MESSAGE_LENGTH = 1000
"""Characters kept of what a pod says of itself."""
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
    listed_at: datetime | None = None
    """When the provider's list had not been asked for yet; it shows nothing of what happened since."""
    storage: bool = False
    """Whether the store answered; without it the fields below say nothing."""
    claim: Claim | None = None
    heartbeat: Heartbeat | None = None
    heartbeat_at: datetime | None = None
    """When the job last gave a sign of life, by the store's clock."""
    events: int = 0
    """How many events its lives have written."""
    started: TrainingStarted | None = None
    progress: Progress | None = None
    terminal: Failed | Finished | None = None
    pace: Pace = field(default_factory=Pace)
    receipts: tuple[Receipt, ...] = ()
    boot_log: str = ""
    """The provider's newest line on how the pod comes up."""


def judge(record: RunRecord, attempt: Attempt, sight: AttemptSeen, now: datetime, gap: float) -> Attempt:
    """Fold one pass's sight of an attempt into its record: adopt, watch, end, confirm its absence."""
    attempt = _adopt(attempt, sight, now)
    attempt = _note_progress(attempt, sight, now)
    attempt = attempt.model_copy(update={"watch": _watch(attempt.watch, sight, gap)})
    if attempt.ended is None:
        ending = _ending(record, attempt, sight, now)
        if ending:
            attempt = attempt.model_copy(update={"ended": ending})
            if attempt.asked_at is None:
                # We hold the lease, and asking is written down first: there is no pod and never will be.
                attempt = attempt.model_copy(update={"refused": True, "gone_at": now, "collected": True})
    elif _confirmed_gone(record, attempt, sight):
        attempt = attempt.model_copy(update={"gone_at": now})
    else:
        attempt = attempt.model_copy(update={"teardown_seconds": attempt.teardown_seconds + gap})
    return attempt


def reopened(attempt: Attempt) -> Attempt:
    """Return an attempt whose pod showed up after its absence was confirmed: to be ended, and charged."""
    return attempt.model_copy(update={"refused": False, "gone_at": None, "collected": False})


def probe(attempt: Attempt, seen: AttemptSeen, lag_seconds: float) -> Probe:
    """Tell whether an attempt's pods are alive, proven dead, or not known."""
    if seen.pods is None:
        return Probe.UNKNOWN
    if any(pod.state is not PodState.ENDED for pod in seen.pods):
        return Probe.ALIVE
    if seen.pods:
        return Probe.DEAD
    # Absent. A young pod may be missing from a list that lags, and so may one whose creation is unsure.
    return Probe.DEAD if has_had_time_to_show(attempt, seen.listed_at, lag_seconds) else Probe.UNKNOWN


def has_had_time_to_show(attempt: Attempt, listed_at: datetime | None, lag_seconds: float) -> bool:
    """Whether a pod of this attempt, if there is one, must be on a list that was asked for at `listed_at`."""
    if listed_at is None:
        return False
    asked_at = attempt.unanswered_at or attempt.asked_at or attempt.intent_at
    return seconds_between(asked_at, listed_at) > lag_seconds


def shows_again(attempt: Attempt, sight: AttemptSeen) -> bool:
    """Whether a pod is there although its attempt was confirmed gone; an older list may well show it."""
    if attempt.gone_at is None or sight.listed_at is None:
        return False
    return bool(sight.pods) and sight.listed_at >= attempt.gone_at


def _adopt(attempt: Attempt, sight: AttemptSeen, now: datetime) -> Attempt:
    """Take every pod that carries the attempt's name as the attempt's own."""
    pods = sight.pods or ()
    unknown = tuple(pod.pod_id for pod in pods if pod.pod_id not in attempt.pod_ids)
    if not pods:
        claimed_by = "" if attempt.pod_ids or sight.claim is None else sight.claim.pod_id
        return attempt.model_copy(update={"claimed_by": claimed_by}) if claimed_by else attempt
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
        asked_at = attempt.asked_at or attempt.intent_at
        update["created_at"] = min(max(min(pod.created_at for pod in pods), asked_at), now)
    return attempt.model_copy(update=update)


def _note_progress(attempt: Attempt, sight: AttemptSeen, now: datetime) -> Attempt:
    update: dict[str, object] = {}
    if sight.events > attempt.events_seen:
        update |= {"events_seen": sight.events, "progress_at": now}
    boot_log = plain(sight.boot_log)
    if boot_log and boot_log != attempt.boot_log:
        update |= {"boot_log": boot_log, "progress_at": now}
    preparing = sight.heartbeat is None or sight.heartbeat.stage is Stage.PREPARING
    at_work = sight.started is not None or not preparing
    if attempt.booted_at is None and at_work:
        update["booted_at"] = now
    if sight.started is not None and attempt.trains_at is None:
        worked = timedelta(seconds=sight.pace.trained_seconds + sight.pace.evaluated_seconds)
        update["trains_at"] = max(attempt.created_at or attempt.intent_at, now - worked)
    if sight.started is not None:
        update["total_steps"] = sight.started.total_steps
    if sight.progress is not None:
        update |= {"epoch": sight.progress.epoch, "step": sight.progress.step}
    if sight.storage and sight.pace != attempt.pace:
        update["pace"] = sight.pace
    return attempt.model_copy(update=update) if update else attempt


def _watch(watch: Watch, sight: AttemptSeen, gap: float) -> Watch:
    """Count silence: only between two passes that both saw store and provider."""
    if not sight.storage or sight.pods is None:
        return watch.model_copy(update={"saw_both": False})
    if sight.heartbeat_at != watch.heartbeat_at:
        return Watch(heartbeat_at=sight.heartbeat_at, saw_both=True)
    silent = watch.silent_seconds + (gap if watch.saw_both else 0.0)
    return Watch(heartbeat_at=sight.heartbeat_at, silent_seconds=silent, saw_both=True)


def _ending(record: RunRecord, attempt: Attempt, sight: AttemptSeen, now: datetime) -> Ending | None:
    """Return why an open attempt is over, or None. The job's word comes first, then facts, then clocks."""
    clocks = record.spec.clocks

    def because(reason: Reason | None, message: str) -> Ending:
        return Ending(reason=reason, message=message, at=now)

    if isinstance(sight.terminal, Finished):
        return because(None, "the job finished its work")
    if isinstance(sight.terminal, Failed):
        return because(sight.terminal.reason, plain(sight.terminal.message))
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
    if attempt.asked_at is None:
        if now < attempt.stop_at:
            return None
        return because(Reason.CREATE_REFUSED, "its time had passed before a pod was asked for")
    state = probe(attempt, sight, clocks.create_lag_seconds)
    if state is Probe.UNKNOWN or not sight.storage:
        # Without the store nobody knows whether the job said its last word or is silent.
        return None
    if state is Probe.DEAD:
        # A claim shows that there was one, though no list showed it while it lived.
        if attempt.pod_ids or sight.claim is not None:
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
    idle = min(age, seconds_between(attempt.progress_at, now)) if attempt.progress_at else age
    if idle > clocks.boot_seconds:
        return because(Reason.BOOT_TIMEOUT, f"the job has made no progress towards training for {idle:.0f} s")
    if age > clocks.boot_hard_seconds:
        return because(Reason.BOOT_TIMEOUT, f"the job does not train {age:.0f} s after the pod's creation")
    return None


def _confirmed_gone(record: RunRecord, attempt: Attempt, sight: AttemptSeen) -> bool:
    """Whether the provider acknowledged every end, has since then shown no such pod, and has had time to show
    a late one.
    """
    return (
        sight.pods == ()
        and set(attempt.pod_ids) <= set(attempt.acknowledged)
        and _was_listed_since(attempt.acknowledged_at, sight)
        and has_had_time_to_show(attempt, sight.listed_at, record.spec.clocks.create_lag_seconds)
    )


def _was_listed_since(moment: datetime | None, sight: AttemptSeen) -> bool:
    """Whether the list is certainly younger than a moment. The store tells whole seconds."""
    return moment is None or (sight.listed_at is not None and sight.listed_at > moment)


def plain(text: str) -> str:
    """Return a pod's text as one short line of printable characters: it ends up on a terminal."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= MESSAGE_LENGTH else line[: MESSAGE_LENGTH - 1] + "…"
