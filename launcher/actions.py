"""What the loop does to the world: ask for a pod, end one, bring artefacts home, close the run.

Knows the ports. Each action writes the record before and after what it does, under the run's lease.
"""

from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta

from job.contract.reasons import Reason
from job.contract.records import ArtefactKind, Receipt, Scores
from job.contract.schema import ContractError, decode
from launcher.ending.disowning import disown
from launcher.errors import (
    AccountRefused,
    CapacityError,
    CreateRefused,
    DeadlineCame,
    FileInUse,
    IntegrityError,
    LeaseHeld,
    LocalDiskError,
    ObjectMissing,
    PodError,
    StorageError,
    UsageError,
)
from launcher.inheritance import inherit
from launcher.journal import Held, Journal
from launcher.manifests import pod_spec
from launcher.model import Attempt, Brought, Ending, Missing, Phase, RunRecord
from launcher.money.choice import waits_until
from launcher.money.forecast import outlook, shortfall
from launcher.ports import Clock, Notifier, Pods, Store
from launcher.reconcile import Create, Seen, Terminate
from launcher.results.fetching import Fetched, fetch_all
from launcher.results.home import Home
from launcher.results.losses import loss_table

RENEWALS = 3
"""How often a lease is renewed in its own length while something long goes on."""


@dataclass(frozen=True)
class World:
    """Everything outside that the loop touches."""

    store: Store
    pods: Pods
    clock: Clock
    notifier: Notifier
    home: Home
    pulls_at_once: int = 1
    """How many small artefacts come home side by side."""


class Actions:
    """The effects of one launcher's passes."""

    def __init__(self, world: World, journal: Journal) -> None:
        self._world = world
        self._journal = journal
        self._written_at = world.clock.monotonic()

    def write(self, held: Held, record: RunRecord) -> None:
        """Write the record and renew the lease."""
        self._journal.write(held, record)
        self._written_at = self._world.clock.monotonic()

    def _keep_lease(self, held: Held) -> None:
        """Renew the lease when a part of its length has passed: called in the middle of long transfers."""
        since = self._world.clock.monotonic() - self._written_at
        if since > held.record.spec.clocks.lease_seconds / RENEWALS:
            self.write(held, held.record)

    def create(self, held: Held, action: Create) -> None:
        """Ask for the pod: everything slow first, then the record that says so, then the request.

        The write in between fails when the lease was lost: who woke late asks for nothing.
        """
        attempt = held.record.attempt(action.attempt)
        if _is_cancelled(held):
            return
        inherited = inherit(
            held.record,
            self._world.store,
            self._world.home,
            self._world.notifier,
            on_bytes=lambda _name, _count: self._keep_lease(held),
        )
        try:
            spec = pod_spec(held.record, attempt, self._world.store, inherited)
        except UsageError as error:
            self._stop(held, attempt, str(error))
            return
        now = self._world.store.now()
        if now >= attempt.stop_at:
            return  # the next pass ends the attempt, unasked
        self._update(held, attempt, {"asked_at": now, "resumed_epoch": inherited.state_epoch})
        if _is_cancelled(held):
            self._refused(held, attempt, Reason.CANCELLED, "cancelled before a pod was asked for")
            return
        try:
            pod = self._world.pods.create(spec)
        except AccountRefused as error:
            self._stop(held, attempt, f"{error}; {error.next_step}")
            return
        except CreateRefused as error:
            passing = isinstance(error, CapacityError)
            reason = Reason.NO_OFFER if passing else Reason.CREATE_REFUSED
            self._refused(held, attempt, reason, str(error))
            return
        except PodError as error:
            # The next passes look for the name; nothing is asked for again until its absence is confirmed.
            self._world.notifier.say(
                f"pod {attempt.pod_name} may have been made and is looked for by this name: {error}"
            )
            try:
                self._update(held, attempt, {"unanswered_at": self._world.store.now()})
            except LeaseHeld:
                self._disown_if_given_up(held, attempt)
                raise
            return
        found = {
            "pod_ids": (pod.pod_id,),
            "created_at": min(max(pod.created_at, now), self._world.store.now()),
            "price_per_hour": pod.price_per_hour,
            "console_url": pod.console_url,
        }
        try:
            self._update(held, attempt, found)
        except LeaseHeld:
            # Another launcher decides now, and may have given this attempt up: our pod must not outlive that.
            self._disown(held, attempt, (pod.pod_id,))
            raise
        resumed = f" goes on after epoch {inherited.state_epoch}," if inherited.state_epoch else ""
        self._world.notifier.say(
            f"attempt {attempt.number}: pod {pod.pod_id} on {attempt.offer}"
            f" at ${pod.price_per_hour:.3f} an hour,{resumed}"
            f" ends by {attempt.hard_deadline:%H:%M} UTC at the latest"
        )

    def _disown_if_given_up(self, held: Held, attempt: Attempt) -> None:
        """End what an unanswered request may have made, where another launcher looks for it no more."""
        with suppress(StorageError):
            record = self._journal.read(held.record.run_id)
            if record.phase.closed or record.attempt(attempt.number).ended is not None:
                self._disown(held, attempt, ())

    def _disown(self, held: Held, attempt: Attempt, pod_ids: Sequence[str]) -> None:
        world = self._world
        disown(attempt, pod_ids, held.record.spec.clocks, world.pods, world.clock, world.notifier)

    def _update(self, held: Held, attempt: Attempt, fields: dict[str, object]) -> None:
        """Write fields of an attempt."""
        current = held.record.attempt(attempt.number)
        self.write(held, held.record.with_attempt(current.model_copy(update=fields)))

    def _refused(self, held: Held, attempt: Attempt, reason: Reason, message: str) -> None:
        now = self._world.store.now()
        ending = Ending(reason=reason, message=message, at=now)
        self._update(held, attempt, {"refused": True, "ended": ending, "gone_at": now, "collected": True})
        self._world.notifier.say(f"attempt {attempt.number}: {attempt.offer} could not be had: {message}")

    def _stop(self, held: Held, attempt: Attempt, message: str) -> None:
        """End the run before its pod was asked for: no further attempt could do better."""
        ending = Ending(reason=Reason.CREATE_REFUSED, message=message, at=self._world.store.now())
        self.write(held, held.record.model_copy(update={"stopped": ending}))
        self._refused(held, attempt, Reason.CREATE_REFUSED, message)

    def terminate(self, held: Held, action: Terminate) -> None:
        """Ask for a pod's end."""
        try:
            gone = self._world.pods.terminate(action.pod_id)
        except PodError as error:
            self._world.notifier.say(f"pod {action.pod_id} could not be ended yet: {error}")
            return
        attempt = held.record.attempt(action.attempt)
        if gone and action.pod_id not in attempt.acknowledged:
            acknowledged = (*attempt.acknowledged, action.pod_id)
            now = self._world.store.now()
            self._update(held, attempt, {"acknowledged": acknowledged, "acknowledged_at": now})

    def pull(self, held: Held, receipts: Sequence[Receipt], seen: Seen) -> None:
        """Bring artefacts home and note each; what proves to be something else is named as missing.

        What only this machine keeps away, its disk or another process of it, waits in the bucket and is not
        given up. Raises LocalDiskError when nothing but the disk does and no pod is left; DeadlineCame when
        an attempt's hard deadline passes meanwhile, after asking for its pods' end.
        """
        unkept: LocalDiskError | None = None
        in_use = False
        world = self._world
        began = world.clock.monotonic()

        def beat(_name: str, _count: int) -> None:
            now = seen.now + timedelta(seconds=world.clock.monotonic() - began)
            for attempt in held.record.attempts:
                if attempt.gone_at is None and seen.now < attempt.hard_deadline <= now:
                    # At once: stopping what is on its way may wait for a silent store.
                    self._end_pods(attempt)
                    raise DeadlineCame(f"the hard deadline of attempt {attempt.number} came meanwhile")
            self._keep_lease(held)

        arrivals = fetch_all(
            receipts,
            held.record,
            world.store,
            world.home,
            at_once=world.pulls_at_once,
            on_bytes=beat,
        )
        with closing(arrivals):
            for arrived in arrivals:
                record, said = held.record, []
                for fetched in arrived:
                    in_use = in_use or isinstance(fetched.error, FileInUse)
                    if isinstance(fetched.error, LocalDiskError):
                        unkept = fetched.error
                    record, words = _noted(record, fetched, seen)
                    said.append(words)
                if record is not held.record:
                    self.write(held, record)
                for words in said:
                    world.notifier.say(words)
        if not (unkept or in_use) or held.record.phase is not Phase.COLLECTING or not held.record.all_gone:
            return
        self.write(held, held.record.model_copy(update={"collecting_seconds": 0.0}))
        if unkept is None:
            return
        raise LocalDiskError(
            f"every pod is gone, but not all is home: {unkept}",
            next_step="nothing is billed any more and nothing is lost: it waits in the bucket. Mend that"
            " folder, or name another one with --set run.models_dir=FOLDER, and call"
            f" `retrain attach {held.record.run_id}`",
        ) from unkept

    def _end_pods(self, attempt: Attempt) -> None:
        for pod_id in attempt.pod_ids:
            with suppress(PodError):
                self._world.pods.terminate(pod_id)

    def close(self, held: Held, closed: RunRecord) -> None:
        """Each step may be done again by who finds the record still open."""
        absent = self._world.home.absent(held.record)
        if absent:
            # Deleted meanwhile, or fetched on another machine: from the next pass on it is collected anew.
            self.write(held, _without(held.record, absent))
            return
        before = held.record
        self._keep_losses(before)
        self.write(held, self._world.home.finish(closed))
        narrate(before, held.record, self._world.notifier)

    def _keep_losses(self, record: RunRecord) -> None:
        """Write the loss curve beside the results; it is telemetry, so a run ends well without it, too."""
        world = self._world
        try:
            world.home.keep_losses(record.spec.output_name, loss_table(record, world.store))
        except StorageError as error:
            world.notifier.say(f"the loss curve is not kept: {error}")


def narrate(before: RunRecord, after: RunRecord, notifier: Notifier) -> None:
    """Tell a person what became of a run between two records."""
    if after.waiting_since is not None and after.waiting_since != before.waiting_since:
        until = waits_until(after, after.waiting_since)
        notifier.say(
            "no machine is to be had now; one is asked for again and again, at no cost,"
            f" until {until:%H:%M} UTC"
        )
    if after.phase is not before.phase:
        notifier.say(f"phase {after.phase.value.replace('_', ' ')}")
    for attempt in after.attempts:
        known = next((item for item in before.attempts if item.number == attempt.number), None)
        if attempt.ended and not (known and known.ended):
            reason = attempt.ended.reason
            label = "" if reason is None else f" ({reason.value})"
            notifier.say(f"attempt {attempt.number} is over{label}: {attempt.ended.message}")
        if attempt.falls_short_at and not (known and known.falls_short_at):
            expected = outlook(after, attempt.falls_short_at)
            if expected is not None:
                notifier.say(f"attempt {attempt.number}: at the speed measured, {shortfall(expected)}")
        if attempt.gone_at and not (known and known.gone_at):
            pods = ", ".join(attempt.pod_ids) or "no pod"
            notifier.say(f"attempt {attempt.number}: {pods} confirmed gone")


def _is_cancelled(held: Held) -> bool:
    return held.record.cancel_requested


def _without(record: RunRecord, absent: Iterable[Brought]) -> RunRecord:
    """Return the record with these artefacts still to be brought home."""
    gone = {item.receipt.sha256 for item in absent}
    attempts = {item.receipt.attempt for item in absent}
    for number in attempts:
        record = record.with_attempt(record.attempt(number).model_copy(update={"collected": False}))
    kept = tuple(item for item in record.brought if item.receipt.sha256 not in gone)
    return record.model_copy(update={"brought": kept})


def _noted(record: RunRecord, fetched: Fetched, seen: Seen) -> tuple[RunRecord, str]:
    """Return the record with what came of an artefact, and the words for it."""
    receipt, path, error = fetched.receipt, fetched.path, fetched.error
    others = tuple(item for item in record.brought if item.receipt != receipt)
    if path is not None:
        try:
            scores = (_scores(path.read_bytes(), receipt),) if receipt.kind is ArtefactKind.SCORES else ()
        except ContractError as refusal:
            path, why = None, str(refusal)
    elif isinstance(error, IntegrityError | ObjectMissing):
        why = str(error)
    else:
        return record, f"{receipt.name} is not home yet: {error}"
    if path is None:
        lost = Missing(attempt=receipt.attempt, key=receipt.key, sha256=receipt.sha256, why=why)
        update: dict[str, object] = {"brought": others, "missing": (*record.missing, lost)}
        return record.model_copy(update=update), f"{receipt.name} is lost: {why}"
    brought = Brought(receipt=receipt, path=str(path), at=seen.now)
    known = tuple(
        item
        for item in record.scores
        if not scores or (item.attempt, item.epoch) != (receipt.attempt, receipt.epoch)
    )
    update = {"brought": (*others, brought), "scores": (*known, *scores)}
    return record.model_copy(update=update), _arrival(receipt)


def _scores(data: bytes, receipt: Receipt) -> Scores:
    """Read scores; those of another run, attempt or epoch than their receipt's are refused."""
    scores = decode(Scores, data)
    if (scores.run_id, scores.attempt, scores.epoch) != (receipt.run_id, receipt.attempt, receipt.epoch):
        raise ContractError("these scores are another epoch's or attempt's")
    return scores


def _arrival(receipt: Receipt) -> str:
    return f"{receipt.name} is home, {receipt.bytes / 1e6:.2f} MB, SHA-256 {receipt.sha256[:12]}"
