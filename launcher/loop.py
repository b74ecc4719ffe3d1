"""The control loop: observe, decide, write the record, act. One pass at a time, under the run's lease.

Knows the ports and the pure core. Every effect is preceded by a record that announces it and followed by one
that tells how it went, so that another launcher can go on from any point.
"""

from collections.abc import Callable
from dataclasses import replace

from launcher.actions import Actions, World, narrate
from launcher.ending.enforcement import Enforcement
from launcher.errors import (
    DeadlineCame,
    Leaked,
    LeaseHeld,
    LocalDiskError,
    RetrainError,
    StorageError,
    UsageError,
)
from launcher.journal import Held, Journal
from launcher.kept_time import KeptTime
from launcher.model import Phase, RunRecord
from launcher.observe import Observer
from launcher.reconcile import Close, Create, Decision, Pull, Seen, Terminate, decide
from launcher.roster import Roster

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
        time: KeptTime | None = None,
    ) -> None:
        """`mend` is called after a pass that failed: for a store that the launcher itself keeps running.

        `pulls` tells whether artefacts are brought home, which may take long. `time` is what others of this
        process heard of the store's time.
        """
        self._world = world
        self._journal = journal
        self._on_pass = on_pass
        self._pulls = pulls
        self._mend = mend
        self._time = time or KeptTime(world.clock)
        self._actions = Actions(world, journal)

    def drive(self, run_id: str, *, until: Callable[[RunRecord], bool] = lambda _: False) -> RunRecord:
        """Make passes until the run is closed or leaked, or `until` says so, and return its record.

        Raises LeaseHeld when another launcher owns the run from the start; LocalDiskError when nothing but
        this machine's disk keeps the run from being closed; Leaked when not even the store answers.
        """
        enforcement = Enforcement(self._world.pods, self._time)
        held = self._acquire(run_id, enforcement)
        try:
            observer = self._observer(held, watched=True)
            failures = leaked_passes = 0
            while True:
                roster = self._roster()
                try:
                    self._journal.refresh(held)
                    seen, decision = self._look(held.record, observer, roster, enforcement)
                    self._act(held, seen, decision)
                    self._show(held.record, observer, seen)
                    failures = 0
                except Leaked:
                    raise  # of a pod that belongs to no record any more: the next pass would not see it
                except LeaseHeld as error:
                    self._world.notifier.say(f"{error}; waiting until it lets go")
                    held = self._acquire_again(run_id, held, enforcement)
                except RetrainError as error:
                    if isinstance(error, LocalDiskError) and held.record.all_gone:
                        raise
                    # The pod works on without us; its own deadline holds.
                    self._world.notifier.say(f"this pass failed, trying again: {error}")
                    enforcement.enforce(held.record, roster, self._world.notifier)
                    self._mend()
                    failures += 1
                record = held.record
                leaked_passes = leaked_passes + 1 if record.phase is Phase.LEAKED else 0
                if record.phase.closed or leaked_passes >= LEAKED_PASSES or until(record):
                    return record
                self._world.clock.sleep(_pause(record, failures))
        finally:
            self._journal.release(held)

    def once(self, run_id: str, roster: Roster | None = None) -> RunRecord:
        """Make one pass over a run and return its record: for cron and CI.

        `roster` is what the provider shows to all runs of the same pass. A look needs no lease, acting does:
        where there is nothing to be done, what was seen is written over the very record that was read, or not
        at all. Raises LeaseHeld when another launcher has the run, or wrote its record meanwhile.
        """
        enforcement = Enforcement(self._world.pods, self._time)
        held = self._journal.look_up(run_id)
        before = held.record
        if before.phase.closed:
            return before
        self._refuse_elsewhere(before)
        roster = roster or self._roster()
        leased = False
        try:
            observer = self._observer(held, watched=False)
            seen, decision = self._look(before, observer, roster, enforcement)
            leased = bool(decision.actions)
            if leased:
                self._act(held, seen, decision)
            else:
                self._journal.leave(held, decision.record)
                narrate(before, held.record, self._world.notifier)
        except DeadlineCame as error:
            # Nothing failed: what was broken off goes on with the next pass.
            self._world.notifier.say(str(error))
            enforcement.enforce(held.record, roster, self._world.notifier)
        except StorageError:
            enforcement.enforce(held.record, roster, self._world.notifier)
            raise
        finally:
            if leased:
                self._journal.release(held)
        return held.record

    def _acquire(self, run_id: str, enforcement: Enforcement) -> Held:
        """Take the lease; where the store can be read but not written, end what is past its deadline."""
        record = self._journal.read(run_id)
        self._refuse_elsewhere(record)
        self._time.hear(self._world.store.now())
        try:
            return self._journal.acquire(run_id)
        except StorageError:
            enforcement.enforce(record, self._roster(), self._world.notifier)
            raise

    def _observer(self, held: Held, *, watched: bool) -> Observer:
        return Observer(self._world.store, self._world.pods, held.record, watched=watched)

    def _roster(self) -> Roster:
        """Return the provider as of now. Raises StorageError when the store never told the time."""
        at = self._time.now()
        if at is None:
            at = self._world.store.now()
            self._time.hear(at)
        return Roster(self._world.pods, at)

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
                enforcement.enforce(held.record, self._roster(), self._world.notifier)
                self._mend()

    def _look(
        self, record: RunRecord, observer: Observer, roster: Roster, enforcement: Enforcement
    ) -> tuple[Seen, Decision]:
        seen = observer.look(record, roster)
        seen = replace(seen, drift_seconds=self._time.hear(seen.now))
        enforcement.answered()
        for trouble in observer.troubles:
            self._world.notifier.say(trouble)
        decision = decide(record, seen)
        if decision.held_back:
            self._world.notifier.say(f"no pod is asked for now: {decision.held_back}")
        return seen, decision

    def _act(self, held: Held, seen: Seen, decision: Decision) -> None:
        """Write down what was decided, under the lease, then do it."""
        before = held.record
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

    def _show(self, record: RunRecord, observer: Observer, seen: Seen) -> None:
        if self._on_pass is not None:
            try:
                self._on_pass(record, observer, seen)
            except Exception as error:  # noqa: BLE001 - who only looks on must not end a run
                self._world.notifier.say(f"the view failed: {type(error).__name__}")


def _pause(record: RunRecord, failures: int) -> float:
    """Return the seconds until the next pass, longer after each that failed in a row."""
    poll = record.spec.clocks.poll_seconds
    return poll if not failures else max(poll, min(OUTAGE_BACKOFF_MAX, poll * 2 ** min(failures, 10)))
