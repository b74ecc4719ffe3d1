"""A provider in memory, whose pods run a scripted job, on the fake store's clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from job.contract.manifest import DEADLINE_VARIABLE
from launcher.errors import CapacityError, PodError
from launcher.ports import Offer, Pod, PodSpec, PodState
from tests.fakes.job import FakeJob
from tests.fakes.store import FakeStore


@dataclass
class Bill:
    """What a pod really costs, whoever knows of it."""

    name: str
    price_per_hour: float
    began: datetime
    deadline: datetime
    ended: datetime | None = None

    def dollars(self, now: datetime) -> float:
        """Return what it has cost until `now`."""
        return self.price_per_hour * ((self.ended or now) - self.began).total_seconds() / 3600


@dataclass
class FakePods:
    """Counts what was asked of it; faults are set by the test. `bills` is the truth."""

    store: FakeStore
    provider: str = "process"
    place: str = ""
    price: float = 0.5
    sends_bills: bool = False
    bill_lag_seconds: float = 0.0
    bill_factor: float = 1.0
    next_price: float | None = None
    """What the next pod costs, whatever was offered."""
    list_lag_seconds: float = 0.0
    """How long a new pod is missing from the list."""
    listed: tuple[Offer, ...] = ()
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    existing: dict[str, Pod] = field(default_factory=dict)
    bills: dict[str, Bill] = field(default_factory=dict)
    created: list[PodSpec] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)
    no_capacity_for: set[str] = field(default_factory=set)
    silent: bool = False
    """Whether every call fails."""
    create_loses_answer: bool = False
    create_arrives_late: float = 0.0
    """Seconds after which the next request takes effect; its sender gets an error at once."""
    create_twice: bool = False
    """Whether the next request is delivered twice."""
    ends_late_seconds: float = 0.0
    """How long an acknowledged end takes to be carried out."""
    cut_off: bool = False
    """Whether jobs cannot reach the store: they wait."""
    stubborn: bool = False
    """Whether pods refuse to end."""
    self_ending: bool = False
    """Whether pods end themselves when their job is over and at their hard deadline, as real ones do."""
    clock_error: timedelta = timedelta(0)
    """How much the provider's clock is ahead of the truth."""
    invisible_until: datetime | None = None
    hidden_until: dict[str, datetime] = field(default_factory=dict)
    """Pods that the provider does not show for a while."""
    unknown_until: dict[str, datetime] = field(default_factory=dict)
    """Pods that the provider acknowledges the end of, because it does not know them yet."""
    job_options: list[dict[str, Any]] = field(default_factory=list)
    """For each created pod in turn: options of its job."""
    history: list[FakeJob] = field(default_factory=list)
    """Every job that ever ran."""
    zombies: list[FakeJob] = field(default_factory=list)
    """Jobs that work on although their pods are gone for the provider."""
    ending: dict[str, datetime] = field(default_factory=dict)
    """Pods whose end was acknowledged, and when it comes."""
    boot_logs: dict[str, str] = field(default_factory=dict)
    underway: list[tuple[datetime, PodSpec]] = field(default_factory=list)

    def offers(self) -> Sequence[Offer]:
        self._answer()
        return self.listed or (Offer("card", self.price),)

    def create(self, spec: PodSpec) -> Pod:
        self._answer()
        if spec.offer.name in self.no_capacity_for:
            raise CapacityError(f"no {spec.offer.name} to be had")
        self.created.append(spec)
        if self.create_arrives_late:
            arrives = self.store.at + timedelta(seconds=self.create_arrives_late)
            self.create_arrives_late = 0.0
            self.underway.append((arrives, spec))
            raise PodError("time-out")
        pod = self._make(spec)
        if self.create_twice:
            self.create_twice = False
            self._make(spec)
        if self.create_loses_answer:
            self.create_loses_answer = False
            raise PodError("time-out")
        return pod

    def find(self, name: str) -> Sequence[Pod]:
        return [pod for pod in self.list() if pod.name == name]

    def get(self, pod_id: str) -> Pod | None:
        self._answer()
        return next((pod for pod in self._visible() if pod.pod_id == pod_id), None)

    def list(self) -> Sequence[Pod]:
        self._answer()
        oldest = self.store.at - timedelta(seconds=self.list_lag_seconds)
        return [pod for pod in self._visible() if self.bills[pod.pod_id].began <= oldest]

    def terminate(self, pod_id: str) -> bool:
        self._answer()
        self.terminated.append(pod_id)
        if self.stubborn:
            return False
        if pod_id in self._unknown():
            return True
        if self.ends_late_seconds and pod_id in self.existing:
            self.ending.setdefault(pod_id, self.store.at + timedelta(seconds=self.ends_late_seconds))
        else:
            self._end(pod_id)
        return True

    def now(self) -> datetime:
        self._answer()
        return self.store.at + self.clock_error

    def logs(self, pod_id: str, *, tail: int = 100) -> Sequence[str]:
        return []

    def billed(self, pod_id: str, *, since: datetime, until: datetime) -> float | None:
        """The bill lags behind by `bill_lag_seconds`; a `bill_factor` makes it wrong."""
        self._answer()
        told = min(self.store.at - timedelta(seconds=self.bill_lag_seconds), until)
        bill = self.bills[pod_id]
        return max(0.0, bill.dollars(max(told, bill.began))) * self.bill_factor if self.sends_bills else None

    def boot_log(self, pod_id: str) -> str:
        self._answer()
        return self.boot_logs.get(pod_id, "")

    # Knobs.

    def vanish(self, pod_id: str, *, works_on: bool = False) -> None:
        """The host takes the pod away; `works_on` makes a zombie of its job."""
        if works_on:
            self.zombies.append(self.jobs[pod_id])
        self._end(pod_id)

    def container_ends(self, pod_id: str) -> None:
        """The pod stays and bills, its container does not run."""
        self.existing[pod_id] = replace(self.existing[pod_id], state=PodState.ENDED)
        del self.jobs[pod_id]

    def tick(self) -> None:
        """Let time do its work: late requests, every job, and the pods that end themselves."""
        for arrives, spec in list(self.underway):
            if arrives <= self.store.at:
                self.underway.remove((arrives, spec))
                self._make(spec)
        for pod_id, at in list(self.ending.items()):
            if at <= self.store.at:
                del self.ending[pod_id]
                self._end(pod_id)
        for job in [*self.jobs.values(), *self.zombies]:
            if not self.cut_off:
                job.tick()
        if self.self_ending:
            for pod_id in list(self.existing):
                job_over = pod_id not in self.jobs or self.jobs[pod_id].over
                deadline = self.bills[pod_id].deadline
                if job_over or self.store.at >= deadline:
                    self._end(pod_id, at=min(self.store.at, deadline))

    def _make(self, spec: PodSpec) -> Pod:
        now = self.store.now()
        price, self.next_price = self.next_price or self.price, None
        pod = Pod(f"pod-{len(self.bills) + 1}", spec.name, PodState.RUNNING, now, price)
        options = self.job_options.pop(0) if self.job_options else {}
        deadline = datetime.fromisoformat(spec.environment[DEADLINE_VARIABLE])
        self.bills[pod.pod_id] = Bill(spec.name, price, self.store.at, deadline)
        self.existing[pod.pod_id] = pod
        self.jobs[pod.pod_id] = FakeJob(self.store, pod.pod_id, spec.environment, **options)
        self.history.append(self.jobs[pod.pod_id])
        return pod

    def _end(self, pod_id: str, *, at: datetime | None = None) -> None:
        self.jobs.pop(pod_id, None)
        if self.existing.pop(pod_id, None) is not None:
            bill = self.bills[pod_id]
            bill.ended = max(bill.began, at or self.store.at)

    def _visible(self) -> Sequence[Pod]:
        if self.invisible_until is not None and self.store.now() < self.invisible_until:
            return []
        # A pod whose end is acknowledged, that is not shown and bills all the same: nobody could know of it.
        now = self.store.at
        hidden = {pod_id for pod_id, until in self.hidden_until.items() if until > now} - set(self.ending)
        return [pod for pod in self.existing.values() if pod.pod_id not in hidden | self._unknown()]

    def _unknown(self) -> set[str]:
        return {pod_id for pod_id, until in self.unknown_until.items() if until > self.store.at}

    def _answer(self) -> None:
        if self.silent:
            raise PodError("the provider does not answer")


@dataclass
class FakeClock:
    """Sleeping moves the store's time on and lets the pods work."""

    store: FakeStore
    pods: FakePods
    slept: float = 0.0
    limit_seconds: float = 48 * 3600
    """A test that sleeps longer does not end."""
    disturb: dict[int, Callable[[], object]] = field(default_factory=dict)
    """What happens at the n-th sleep."""
    sleeps: int = 0

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.sleeps += 1
        self.disturb.get(self.sleeps, lambda: None)()
        assert self.slept < self.limit_seconds, "the loop does not end"
        self.store.advance(seconds)
        self.pods.tick()


@dataclass
class Notes:
    """A Notifier that remembers."""

    lines: list[str] = field(default_factory=list)

    def say(self, message: str) -> None:
        self.lines.append(message)
