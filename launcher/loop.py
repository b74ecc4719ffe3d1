"""The control loop: observe, decide, write the record, act. One pass at a time, under the run's lease.

Knows the ports and the pure core. Every effect is preceded by a record that announces it and followed by one
that tells how it went, so that another launcher can go on from any point.
"""

from collections.abc import Callable
from dataclasses import dataclass

from job.contract import keys
from job.contract.manifest import DEADLINE_VARIABLE, MANIFEST_URL_VARIABLE
from job.contract.reasons import Reason
from job.contract.records import ArtefactKind, Receipt, Scores
from job.contract.schema import decode
from launcher.errors import (
    AmbiguousCreate,
    CapacityError,
    IntegrityError,
    LeaseHeld,
    LocalDiskError,
    PodError,
    RetrainError,
    StorageError,
)
from launcher.home import Home
from launcher.inheritance import inherit
from launcher.journal import Held, Journal
from launcher.manifests import EXPIRY_MARGIN, build_manifest
from launcher.model import Attempt, Brought, Ending, Missing, Phase, RunRecord
from launcher.observe import Observer
from launcher.ports import Clock, Notifier, Offer, Pods, PodSpec, Store
from launcher.reconcile import Close, Create, Pull, Seen, Terminate, decide

OUTAGE_BACKOFF_MAX = 60.0
"""Seconds between two passes at the most, while the store does not answer."""


@dataclass(frozen=True)
class World:
    """Everything outside that the loop touches."""

    store: Store
    pods: Pods
    clock: Clock
    notifier: Notifier
    home: Home


PassListener = Callable[[RunRecord, Observer, Seen], None]
"""Called after each pass, for whoever shows a person what happens. Must not fail."""


class Loop:
    """Drives one run to its end."""

    def __init__(self, world: World, journal: Journal, *, on_pass: PassListener | None = None) -> None:
        self._world = world
        self._journal = journal
        self._on_pass = on_pass

    def drive(self, run_id: str) -> RunRecord:
        """Make passes until the run is closed or leaked, and return its record.

        Raises LeaseHeld when another launcher owns the run.
        """
        with self._journal.holding(run_id) as held:
            observer = self._observer(held)
            failures = 0
            while True:
                try:
                    self._pass(held, observer)
                    failures = 0
                except LeaseHeld:
                    raise
                except StorageError as error:
                    # The pod works on without us; its own deadline holds.
                    self._world.notifier.say(f"the store does not answer, trying again: {error}")
                    failures += 1
                record = held.record
                if record.phase.closed or record.phase is Phase.LEAKED:
                    return record
                self._world.clock.sleep(_pause(record, failures))

    def once(self, run_id: str) -> RunRecord:
        """Make one pass over a run and return its record: for cron and CI."""
        with self._journal.holding(run_id) as held:
            self._pass(held, self._observer(held))
            return held.record

    def _observer(self, held: Held) -> Observer:
        return Observer(self._world.store, self._world.pods, held.record)

    def _pass(self, held: Held, observer: Observer) -> None:
        self._journal.refresh(held)
        before = held.record
        seen = observer.look(before)
        for trouble in observer.troubles:
            self._world.notifier.say(trouble)
        decision = decide(before, seen)
        self._journal.write(held, decision.record)
        self._narrate(before, held.record)
        for action in decision.actions:
            match action:
                case Create():
                    self._create(held, action, seen)
                case Terminate():
                    self._terminate(held, action)
                case Pull():
                    self._pull(held, action, seen)
                case Close():
                    self._close(held, action.record)
        if self._on_pass is not None:
            self._on_pass(held.record, observer, seen)

    def _create(self, held: Held, action: Create, seen: Seen) -> None:
        """Ask for the pod. What fails before the request is sent ends the attempt as refused."""
        record = held.record
        attempt = record.attempt(action.attempt)
        try:
            spec, inherited_epoch = self._pod_spec(record, attempt, action.offer)
        except RetrainError as error:
            self._refused(held, attempt, Reason.CREATE_REFUSED, str(error), seen)
            raise
        try:
            pod = self._world.pods.create(spec)
        except CapacityError as error:
            self._refused(held, attempt, Reason.NO_OFFER, str(error), seen)
            return
        except AmbiguousCreate as error:
            # The next passes look for the name; nothing is asked for again until its absence is confirmed.
            self._world.notifier.say(f"nobody knows whether pod {attempt.pod_name} was made: {error}")
            return
        except PodError as error:
            self._refused(held, attempt, Reason.CREATE_REFUSED, str(error), seen)
            return
        update = {
            "pod_ids": (pod.pod_id,),
            "created_at": max(pod.created_at, attempt.intent_at),
            "price_per_hour": pod.price_per_hour,
            "console_url": pod.console_url,
            "resumed_epoch": inherited_epoch,
        }
        self._journal.write(held, record.with_attempt(attempt.model_copy(update=update)))
        self._world.notifier.say(
            f"attempt {attempt.number}: pod {pod.pod_id} on {attempt.offer}"
            f" at ${pod.price_per_hour:.3f} an hour, ends by {attempt.hard_deadline:%H:%M} UTC at the latest"
        )

    def _pod_spec(self, record: RunRecord, attempt: Attempt, offer: Offer) -> tuple[PodSpec, int]:
        store = self._world.store
        inherited = inherit(record, store, self._world.home, self._world.notifier)
        manifest = build_manifest(record, attempt, store, inherited)
        key = keys.manifest_key(record.run_id, attempt.number)
        store.put(key, manifest.encode())
        link = store.presign_get(key, expires_at=attempt.hard_deadline + EXPIRY_MARGIN)
        environment = {
            MANIFEST_URL_VARIABLE: link.url.get_secret_value(),
            DEADLINE_VARIABLE: attempt.hard_deadline.isoformat(),
        }
        spec = PodSpec(
            name=attempt.pod_name,
            offer=offer,
            environment=environment,
            image=record.spec.image,
            disk_gb=record.spec.disk_gb,
        )
        return spec, inherited.state_epoch

    def _refused(self, held: Held, attempt: Attempt, reason: Reason, message: str, seen: Seen) -> None:
        update = {
            "refused": True,
            "ended": Ending(reason=reason, message=message, at=seen.now),
            "gone_at": seen.now,
            "collected": True,
        }
        self._journal.write(held, held.record.with_attempt(attempt.model_copy(update=update)))
        self._world.notifier.say(f"attempt {attempt.number}: {attempt.offer} could not be had: {message}")

    def _terminate(self, held: Held, action: Terminate) -> None:
        try:
            gone = self._world.pods.terminate(action.pod_id)
        except PodError as error:
            self._world.notifier.say(f"pod {action.pod_id} could not be ended yet: {error}")
            return
        attempt = held.record.attempt(action.attempt)
        if gone and action.pod_id not in attempt.acknowledged:
            update = {"acknowledged": (*attempt.acknowledged, action.pod_id)}
            self._journal.write(held, held.record.with_attempt(attempt.model_copy(update=update)))

    def _pull(self, held: Held, action: Pull, seen: Seen) -> None:
        receipt = action.receipt
        key = keys.attempt_prefix(held.record.run_id, receipt.attempt) + receipt.key
        try:
            path = self._world.home.fetch(self._world.store, key, receipt, held.record)
        except IntegrityError as error:
            lost = Missing(attempt=receipt.attempt, key=receipt.key, sha256=receipt.sha256, why=str(error))
            self._journal.write(
                held, held.record.model_copy(update={"missing": (*held.record.missing, lost)})
            )
            self._world.notifier.say(str(error))
            return
        except (StorageError, LocalDiskError) as error:
            self._world.notifier.say(f"{receipt.name} is not home yet: {error}")
            return
        brought = Brought(receipt=receipt, path=str(path), at=seen.now)
        update: dict[str, object] = {"brought": (*held.record.brought, brought)}
        if receipt.kind is ArtefactKind.SCORES:
            update["scores"] = (*held.record.scores, decode(Scores, path.read_bytes()))
        self._journal.write(held, held.record.model_copy(update=update))
        self._world.notifier.say(_arrival(receipt))

    def _close(self, held: Held, record: RunRecord) -> None:
        # Each step may be done again by who finds the record still open.
        before = held.record
        self._world.home.finish(record)
        self._journal.write(held, record)
        self._journal.free_name(record)
        self._narrate(before, held.record)

    def _narrate(self, before: RunRecord, after: RunRecord) -> None:
        if after.phase is not before.phase:
            self._world.notifier.say(f"phase {after.phase.value.replace('_', ' ')}")
        for attempt in after.attempts:
            known = next((item for item in before.attempts if item.number == attempt.number), None)
            if attempt.ended and not (known and known.ended):
                reason = attempt.ended.reason
                label = "" if reason is None else f" ({reason.value})"
                self._world.notifier.say(f"attempt {attempt.number} is over{label}: {attempt.ended.message}")
            if attempt.gone_at and not (known and known.gone_at):
                pods = ", ".join(attempt.pod_ids) or "no pod"
                self._world.notifier.say(f"attempt {attempt.number}: {pods} confirmed gone")


def _pause(record: RunRecord, failures: int) -> float:
    """Return the seconds until the next pass, longer after each that failed in a row."""
    poll = record.spec.clocks.poll_seconds
    return poll if not failures else max(poll, min(OUTAGE_BACKOFF_MAX, poll * 2 ** min(failures, 10)))


def _arrival(receipt: Receipt) -> str:
    return f"{receipt.name} is home, {receipt.bytes / 1e6:.2f} MB, SHA-256 {receipt.sha256[:12]}"
