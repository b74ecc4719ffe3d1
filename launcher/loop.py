"""The control loop: observe, decide, write the record, act. One pass at a time, under the run's lease.

Knows the ports and the pure core. Every effect is preceded by a record that announces it and followed by one
that tells how it went, so that another launcher can go on from any point.
"""

from collections.abc import Callable
from dataclasses import replace

from launcher.actions import Actions, World, narrate
from launcher.enforcement import Enforcement
from launcher.errors import (
    DeadlineCame,
    LeaseHeld,
    LocalDiskError,
    RetrainError,
    StorageError,
    UsageError,
)
from launcher.journal import Held, Journal
from launcher.model import Phase, RunRecord
from launcher.observe import Observer
from launcher.reconcile import Close, Create, Pull, Seen, Terminate, decide

OUTAGE_BACKOFF_MAX = 60.0
"""Seconds between two passes at the most, while they fail."""
LEAKED_PASSES = 3
"""Passes over a LEAKED run before giving the word back: one asks for the end, a later one can confirm it."""


PassListener = Callable[[RunRecord, Observer, Seen], None]
"""Called after each pass, for whoever shows a person what happens."""


class Loop:
    """Drives one run to its end."""

    def __init__(
        self,
        world: World,
        journal: Journal,
        *,
        on_pass: PassListener | None = None,
        mend: Callable[[], None] = lambda: None,
        pulls: bool = True,
    ) -> None:
        """`mend` is called after a pass that failed: for a store that the launcher itself keeps running.

        `pulls` tells whether artefacts are brought home, which may take long.
        """
        self._world = world
        self._journal = journal
        self._on_pass = on_pass
        self._pulls = pulls
        self._mend = mend
        self._actions = Actions(world, journal)

    def drive(self, run_id: str, *, until: Callable[[RunRecord], bool] = lambda _: False) -> RunRecord:
        """Make passes until the run is closed or leaked, or `until` says so, and return its record.

        Raises LeaseHeld when another launcher owns the run from the start; LocalDiskError when nothing but
        this machine's disk keeps the run from being closed; Leaked when not even the store answers.
        """
        enforcement = Enforcement(self._world.pods, self._world.clock)
        held = self._acquire(run_id, enforcement)
        try:
            observer = self._observer(held)
            failures = leaked_passes = 0
            while True:
                try:
                    self._pass(held, observer, enforcement)
                    failures = 0
                except LeaseHeld as error:
                    self._world.notifier.say(f"{error}; waiting until it lets go")
                    held = self._acquire_again(run_id, held, enforcement)
                except RetrainError as error:
                    if isinstance(error, LocalDiskError) and held.record.all_gone:
                        raise
                    # The pod works on without us; its own deadline holds.
                    self._world.notifier.say(f"this pass failed, trying again: {error}")
                    enforcement.enforce(held.record, self._world.notifier)
                    self._mend()
                    failures += 1
                record = held.record
                leaked_passes = leaked_passes + 1 if record.phase is Phase.LEAKED else 0
                if record.phase.closed or leaked_passes >= LEAKED_PASSES or until(record):
                    return record
                self._world.clock.sleep(_pause(record, failures))
        finally:
            self._journal.release(held)

    def once(self, run_id: str) -> RunRecord:
        """Make one pass over a run and return its record: for cron and CI."""
        enforcement = Enforcement(self._world.pods, self._world.clock)
        held = self._acquire(run_id, enforcement)
        try:
            self._pass(held, self._observer(held), enforcement)
        except DeadlineCame as error:
            # Nothing failed: what was broken off goes on with the next pass.
            self._world.notifier.say(str(error))
            enforcement.enforce(held.record, self._world.notifier)
        except StorageError:
            enforcement.enforce(held.record, self._world.notifier)
            raise
        finally:
            self._journal.release(held)
        return held.record

    def _acquire(self, run_id: str, enforcement: Enforcement) -> Held:
        """Take the lease; where the store can be read but not written, end what is past its deadline."""
        record = self._journal.read(run_id)
        self._refuse_elsewhere(record)
        enforcement.saw(self._world.store.now())
        try:
            return self._journal.acquire(run_id)
        except StorageError:
            enforcement.enforce(record, self._world.notifier)
            raise

    def _observer(self, held: Held) -> Observer:
        return Observer(self._world.store, self._world.pods, held.record)

    def _refuse_elsewhere(self, record: RunRecord) -> None:
        """From here the pods of another provider or machine look absent, which is no proof of anything."""
        if record.phase.closed:
            return
        if record.spec.provider != self._world.pods.provider:
            raise UsageError(
                f"the pods of run {record.run_id} are of provider {record.spec.provider}, and"
                f" {self._world.pods.provider} is configured here",
                next_step=f"add --provider {record.spec.provider}",
            )
        if record.spec.place != self._world.pods.place:
            raise UsageError(
                f"the pods of run {record.run_id} are on another machine or engine",
                next_step=f"run `retrain attach {record.run_id}` there",
            )

    def _acquire_again(self, run_id: str, held: Held, enforcement: Enforcement) -> Held:
        failures = 0
        while True:
            self._world.clock.sleep(_pause(held.record, failures))
            try:
                return self._journal.acquire(run_id)
            except LeaseHeld:
                failures = 0
                enforcement.answered()
            except StorageError:
                failures += 1
                enforcement.enforce(held.record, self._world.notifier)
                self._mend()

    def _pass(self, held: Held, observer: Observer, enforcement: Enforcement) -> None:
        self._journal.refresh(held)
        before = held.record
        seen = observer.look(before)
        seen = replace(seen, drift_seconds=enforcement.saw(seen.now))
        for trouble in observer.troubles:
            self._world.notifier.say(trouble)
        decision = decide(before, seen)
        if decision.held_back:
            self._world.notifier.say(f"no pod is asked for now: {decision.held_back}")
        self._actions.write(held, decision.record)
        narrate(before, held.record, self._world.notifier)
        for action in decision.actions:
            match action:
                case Create():
                    self._actions.create(held, action)
                case Terminate():
                    self._actions.terminate(held, action)
                case Pull():
                    if self._pulls:
                        self._actions.pull(held, action.receipts, seen)
                case Close():
                    self._actions.close(held, action.record)
        if self._on_pass is not None:
            try:
                self._on_pass(held.record, observer, seen)
            except Exception as error:  # noqa: BLE001 - who only looks on must not end a run
                self._world.notifier.say(f"the view failed: {type(error).__name__}")


def _pause(record: RunRecord, failures: int) -> float:
    """Return the seconds until the next pass, longer after each that failed in a row."""
    poll = record.spec.clocks.poll_seconds
    return poll if not failures else max(poll, min(OUTAGE_BACKOFF_MAX, poll * 2 ** min(failures, 10)))
