"""The promises, checked against the truth that only the fakes know. Each broken one is said in words."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from job.contract import keys
from job.contract.schema import decode
from launcher.model import Phase, RunRecord
from launcher.money.budget import spent_at_most
from launcher.outcome import outcome
from launcher.ports import PodSpec
from launcher.results.home import Home
from tests.crash.faults import HARMS_PODS, Fault, Schedule
from tests.fakes.job import FakeJob, Vouched
from tests.fakes.pods import Bill, Notes
from tests.fakes.store import FakeStore
from tests.launcher.world import OUTPUT, RUN

RECORD = keys.record_key(RUN)
UNWATCHED = frozenset(
    {
        Fault.PROVIDER_DOWN,
        Fault.STORE_DOWN,
        Fault.STORE_LOST,
        Fault.STUBBORN,
        Fault.ENDS_LATE,
        Fault.PRICE_RISES,
    }
)
"""Faults under which launchers alone cannot always end a pod in time."""
UNDOES_WORK = frozenset({Fault.REPLAY, Fault.PROVIDER_FORGETS, Fault.ZOMBIE, Fault.CREATE_TWICE})
"""Faults after which finished work may be done again: its last word was overwritten or never heard."""
RESERVE_SECONDS = 60.0
"""Of the run's budget."""
CLOCK_SECONDS = 1.0
"""The store tells whole seconds."""


class Broken(AssertionError):
    """A promise was not kept."""


class Named(Protocol):
    """A pod as the provider has it."""

    @property
    def pod_id(self) -> str:
        """Its id."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...


class Provider(Protocol):
    """What only the provider knows: the truth about pods. All by pod id, in order of creation."""

    @property
    def existing(self) -> Mapping[str, Named]:
        """Pods that exist."""
        ...

    @property
    def jobs(self) -> Mapping[str, FakeJob]:
        """The jobs of pods that exist, but those whose container ended."""
        ...

    @property
    def bills(self) -> Mapping[str, Bill]:
        """What each pod that ever was costs."""
        ...

    @property
    def history(self) -> Sequence[FakeJob]:
        """The job of each of them."""
        ...

    @property
    def created(self) -> Sequence[PodSpec]:
        """What was asked for."""
        ...

    @property
    def underway(self) -> Sequence[object]:
        """Requests for pods that have not arrived."""
        ...

    @property
    def silent(self) -> bool:
        """Whether it answers nobody."""
        ...


class Scene(Protocol):
    """A world in which a run is played."""

    @property
    def store(self) -> FakeStore:
        """The bucket."""
        ...

    @property
    def pods(self) -> Provider:
        """The provider."""
        ...

    @property
    def home(self) -> Home:
        """Where results come to."""
        ...

    @property
    def notes(self) -> Notes:
        """What a person was told."""
        ...


class Witness:
    """Looks at every effect of every launcher, and at the end of the run."""

    def __init__(self, fake: Scene, schedule: Schedule) -> None:
        self._fake = fake
        self._schedule = schedule
        self._seen = b""
        self._decoded: RunRecord | None = None
        self.cancelled = False
        self.lost = 0
        self.leaked = 0

    def said(self, text: str) -> None:
        """Look for secrets in what a person gets to see."""
        if "signature=" in text or "fake://" in text:
            raise Broken(f"secrets: a link is shown: {text}")

    @contextmanager
    def watching(self, who: str, name: str, arguments: tuple[object, ...]) -> Iterator[None]:
        """Compare what was with what is, around one effect."""
        if name == "create":
            self._before_create(who, arguments[0])
        if name == "terminate":
            self._before_terminate(who, str(arguments[0]), self._record())
        if name == "put" and arguments[0] == RECORD:
            before = self._record()
            yield
            self._after_record(who, before, self._record())
        else:
            yield

    def _record(self) -> RunRecord | None:
        data = self._fake.store.peek(RECORD)
        if data is not None and data != self._seen:
            self._seen, self._decoded = data, decode(RunRecord, data)
        return self._decoded

    def _before_create(self, who: str, spec: object) -> None:
        assert isinstance(spec, PodSpec)
        record = self._record()
        if record is None or not any(
            attempt.pod_name == spec.name and attempt.asked_at for attempt in record.attempts
        ):
            raise Broken(f"teardown: {spec.name} is asked for before the record says so")
        if any(earlier.name == spec.name for earlier in self._fake.pods.created):
            raise Broken(f"money: {spec.name} is asked for twice")
        if record.lease is None or record.lease.holder != who:
            return  # it stood still between its last write and its request, and ends this pod on the answer
        if any(job.finished for job in self._fake.pods.history) and not self._schedule.faults & UNDOES_WORK:
            raise Broken(f"money: {spec.name} is asked for although the work is done")
        others = [pod.pod_id for pod in self._fake.pods.existing.values() if pod.name != spec.name]
        if others:
            raise Broken(f"money: {spec.name} is asked for while {others} exist")

    def _before_terminate(self, who: str, pod_id: str, record: RunRecord | None) -> None:
        """A pod that works is ended only where that is called for."""
        pods = self._fake.pods
        job = pods.jobs.get(pod_id)
        if job is None or job.over or job.said_last_word or record is None:
            return
        if self._schedule.faults & HARMS_PODS:
            return
        holds = record.lease is not None and record.lease.holder == who
        twins = [pod for pod in pods.existing.values() if pod.name == pods.existing[pod_id].name]
        late = self._fake.store.at >= pods.bills[pod_id].deadline
        if holds and not late and not record.cancel_requested and len(twins) == 1:
            raise Broken(f"data: {pod_id} is ended in the middle of its work")

    def _after_record(self, who: str, before: RunRecord | None, after: RunRecord | None) -> None:
        if before is None or after is None or before == after:
            return
        if before.cancel_requested and not after.cancel_requested and not after.phase.closed:
            raise Broken(f"truth: {who} lost the wish to cancel")
        lease = before.lease
        if lease is not None and lease.holder != who and self._fake.store.now() < lease.until:
            raise Broken(f"money: {who} wrote although {lease.holder} has the lease")
        if before.phase.closed and not after.phase.closed:
            raise Broken("truth: a closed run was opened again")
        if len(after.attempts) < len(before.attempts):
            raise Broken("money: an attempt was forgotten")
        for old, new in zip(before.attempts, after.attempts, strict=False):
            if old.hard_deadline != new.hard_deadline or old.pod_name != new.pod_name:
                raise Broken(f"money: the deadline or name of attempt {old.number} changed")
            if not set(old.pod_ids) <= set(new.pod_ids):
                raise Broken(f"teardown: a pod of attempt {old.number} was forgotten")
        if after.phase.closed and not before.phase.closed:
            self._nothing_is_left()

    def _nothing_is_left(self) -> None:
        left = sorted(self._fake.pods.existing)
        self.leaked += len(left)
        if left or self._fake.pods.underway:
            raise Broken(f"teardown: the run was closed with {left or 'a request'} left over")

    def at_end(self, record: RunRecord) -> None:
        """Check a closed run."""
        self._nothing_is_left()
        self._money(record)
        self._data(record)
        self._claims()
        self._truth(record)
        for line in self._fake.notes.lines:
            self.said(line)
        self.said(record.encode().decode())

    def _money(self, record: RunRecord) -> None:
        pods, now = self._fake.pods, self._fake.store.at
        real = sum(bill.dollars(now) for bill in pods.bills.values())
        charged = spent_at_most(record, now)
        seen = {pod_id for attempt in record.attempts for pod_id in attempt.pod_ids}
        # A second pod, or the price of one, of which nobody can know: it ended before anybody looked.
        unseen = Fault.CREATE_TWICE in self._schedule.faults or (
            Fault.PRICE_RISES in self._schedule.faults and not seen.issuperset(pods.bills)
        )
        rounding = sum(bill.price_per_hour for bill in pods.bills.values()) * CLOCK_SECONDS / 3600
        if real > charged + rounding and not unseen:
            raise Broken(f"truth: ${real:.4f} were spent, ${charged:.4f} are told")
        faults = self._schedule.faults
        watched = not faults & UNWATCHED and self._schedule.away_seconds < RESERVE_SECONDS / 2
        layer = self._schedule.self_ending and Fault.PRICE_RISES not in faults
        if (layer or watched) and not unseen and real > record.spec.budget.cap_dollars:
            raise Broken(
                f"money: ${real:.4f} were spent under a cap of ${record.spec.budget.cap_dollars:.2f}"
            )

    def _data(self, record: RunRecord) -> None:
        for epoch in record.spec.recipe.saved_epochs:
            path = self._fake.home.models_dir / record.spec.recipe.checkpoint_name(epoch)
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
            due = [
                item for job in self._fake.pods.history for item in job.vouched if self._is_due(item, record)
            ]
            wanted = [item for item in due if item.epoch == epoch]
            named = {(item.attempt, item.sha256) for item in record.missing}
            if found is None and any((item.attempt, item.sha256) not in named for item in wanted):
                self.lost += 1
                raise Broken(f"data: the checkpoint of epoch {epoch} is lost and nobody says so")
            if found is not None and found not in {item.sha256 for item in self._all_of(epoch)}:
                raise Broken(f"data: the file of epoch {epoch} is none that a job wrote")

    def _is_due(self, item: Vouched, record: RunRecord) -> bool:
        """Whether a checkpoint was complete while its pod existed for the provider."""
        attempt = record.attempt(item.attempt)
        return attempt.gone_at is None or item.at < attempt.gone_at

    def _all_of(self, epoch: int) -> list[Vouched]:
        return [item for job in self._fake.pods.history for item in job.vouched if item.epoch == epoch]

    def _claims(self) -> None:
        names = [bill.name for bill in self._fake.pods.bills.values()]
        for bill, job in zip(self._fake.pods.bills.values(), self._fake.pods.history, strict=True):
            if job.superseded and names.count(bill.name) == 1:
                raise Broken(f"data: the pod of {bill.name} was turned away from an attempt of its own")

    def _truth(self, record: RunRecord) -> None:
        if record.phase is Phase.DONE:
            home = self._fake.home
            missing = record.checkpoints_not_home()
            if missing and outcome(record).exit_code == 0:
                raise Broken(f"truth: called done without {missing}")
            if record.selection is None and not missing:
                raise Broken("truth: done, and no checkpoint was selected")
            if record.selection is not None:
                chosen = record.spec.recipe.checkpoint_name(record.selection.epoch)
                same = home.selected(OUTPUT).read_bytes() == (home.models_dir / chosen).read_bytes()
                if not same:
                    raise Broken(f"truth: the model is not the selected {chosen}")
            return
        if self.cancelled or self._schedule.faults & HARMS_PODS or self._fake.pods.silent:
            return
        if self._had_time(record):
            raise Broken(f"data: a pod was made, none was harmed, and the run {outcome(record).sentence}")

    def _had_time(self, record: RunRecord) -> bool:
        """Whether some pod was made and nothing but its own work decided how the run ends."""
        return (
            bool(self._fake.pods.bills)
            and self._schedule.away_seconds < 1200
            and record.spec.budget.cap_dollars >= 1
        )
