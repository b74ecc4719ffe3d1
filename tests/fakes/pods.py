"""A provider in memory, whose pods run a scripted job, on the fake store's clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from launcher.errors import CapacityError, PodError
from launcher.ports import Offer, Pod, PodSpec, PodState
from tests.fakes.job import FakeJob
from tests.fakes.store import FakeStore


@dataclass
class FakePods:
    """Counts what was asked of it; faults are set by the test."""

    store: FakeStore
    provider: str = "process"
    place: str = ""
    price: float = 0.5
    listed: tuple[Offer, ...] = ()
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    existing: dict[str, Pod] = field(default_factory=dict)
    created: list[PodSpec] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)
    no_capacity_for: set[str] = field(default_factory=set)
    silent: bool = False
    """Whether every call fails."""
    create_loses_answer: bool = False
    stubborn: bool = False
    """Whether pods refuse to end."""
    invisible_until: datetime | None = None
    job_options: list[dict[str, Any]] = field(default_factory=list)
    """For each created pod in turn: options of its job."""

    def offers(self) -> Sequence[Offer]:
        self._answer()
        return self.listed or (Offer("card", self.price),)

    def create(self, spec: PodSpec) -> Pod:
        self._answer()
        if spec.offer.name in self.no_capacity_for:
            raise CapacityError(f"no {spec.offer.name} to be had")
        pod = Pod(f"pod-{len(self.created) + 1}", spec.name, PodState.RUNNING, self.store.now(), self.price)
        options = self.job_options.pop(0) if self.job_options else {}
        self.created.append(spec)
        self.existing[pod.pod_id] = pod
        self.jobs[pod.pod_id] = FakeJob(self.store, pod.pod_id, spec.environment, **options)
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
        return self._visible()

    def terminate(self, pod_id: str) -> bool:
        self._answer()
        self.terminated.append(pod_id)
        if self.stubborn:
            return False
        self.existing.pop(pod_id, None)
        self.jobs.pop(pod_id, None)
        return True

    def logs(self, pod_id: str, *, tail: int = 100) -> Sequence[str]:
        return []

    # Knobs.

    def vanish(self, pod_id: str) -> None:
        """The host takes the pod away."""
        del self.existing[pod_id]
        del self.jobs[pod_id]

    def container_ends(self, pod_id: str) -> None:
        """The pod stays and bills, its container does not run."""
        self.existing[pod_id] = replace(self.existing[pod_id], state=PodState.ENDED)
        del self.jobs[pod_id]

    def tick(self) -> None:
        """Let every job do a piece of work."""
        for job in list(self.jobs.values()):
            job.tick()

    def _visible(self) -> Sequence[Pod]:
        if self.invisible_until is not None and self.store.now() < self.invisible_until:
            return []
        return list(self.existing.values())

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
