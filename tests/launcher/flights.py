"""A canary in the simulated RunPod, in fake time: its pod runs a fake job that ends it with its own key."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from pydantic import SecretStr

from job.contract.reasons import Reason
from job.contract.recipe import Recipe, TrainerName
from launcher.actions import World
from launcher.ending.canary import Flight, canary_record, fly
from launcher.journal import Journal
from launcher.model import Budget, Clocks, RunRecord, RunSpec
from launcher.pods.runpod import RunpodPods, Wanted
from launcher.pods.runpod_api import RunpodApi, Termination
from launcher.results.home import Home
from tests.fakes.job import FakeJob
from tests.fakes.pods import Notes
from tests.fakes.store import FakeStore
from tests.simulators.runpod import FakeClock, Pod, Scripted, Simulator, Timing
from tests.simulators.runpod.pod import Container

BASE = "http://127.0.0.1"
DISK_GB = 20
TIMING = Timing(provision=2, start=20, restart=2, grace=10)


@dataclass
class Time:
    """One time for launcher, store and provider; sleeping lets it pass."""

    cloud: Simulator
    store: FakeStore
    slept: float = 0.0
    at: dict[int, Callable[[], object]] = field(default_factory=dict)
    """What happens at the n-th sleep."""
    sleeps: int = 0

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.sleeps += 1
        assert self.slept < 24 * 3600, "it does not end"
        self.store.advance(seconds)
        self.cloud.advance(seconds)
        self.at.get(self.sleeps, lambda: None)()


class Pupil:
    """The job of a canary, and how it ends its pod: v2, then GraphQL, for ever."""

    def __init__(self, flights: "Flights") -> None:
        self._flights = flights
        self._jobs: dict[str, FakeJob] = {}

    def step(self, container: Container) -> int | None:
        flights = self._flights
        if container.pod_id not in self._jobs:
            job = FakeJob(
                flights.store,
                container.pod_id,
                container.environment,
                fail_at_epoch=1,
                fail_with=Reason.BAD_INPUT,
            )
            self._jobs[container.pod_id] = job
        job = self._jobs[container.pod_id]
        job.tick()
        if job.said_last_word and flights.ends_itself:
            self._end(container)
        return None

    def _end(self, container: Container) -> None:
        key, pod_id = container.environment["RUNPOD_API_KEY"], container.pod_id
        head = {"Authorization": f"Bearer {key}", "User-Agent": "job/1"}
        query = f'mutation {{ podTerminate(input: {{ podId: "{pod_id}" }}) }}'
        with httpx.Client(base_url=BASE, headers=head, transport=self._flights.cloud.transport()) as client:
            v2 = client.delete(f"/v2/pods/{pod_id}").status_code == 204
            container.say(said("v2", yes=v2))
            if not v2:
                answer = client.post("/graphql", json={"query": query})
                container.say(said("graphql", yes=answer.is_success and "errors" not in answer.json()))


def said(api: str, *, yes: bool) -> str:
    answer = "acknowledged: HTTP 204" if yes else "not ended: HTTP 403"
    return f"retrain job: asked RunPod to end this pod ({api}); {answer}"


class Flights:
    """A launcher with a canary to fly."""

    def __init__(self, folder: Path) -> None:
        self.store = FakeStore()
        self.ends_itself = True
        pupil = Pupil(self)

        def workload(_: Pod) -> Scripted:
            # Where SIGTERM is not heeded its log can be read until SIGKILL.
            return Scripted(pupil.step, on_sigterm=lambda: None)

        self.cloud = Simulator(FakeClock(self.store.at), timing=TIMING, workload=workload)
        self.clock = Time(self.cloud, self.store)
        self.notes = Notes()
        key = SecretStr(self.cloud.account_key)
        self.api = RunpodApi(key, base_url=f"{BASE}/v2", clock=self.clock, transport=self.cloud.transport())
        self.pods = RunpodPods(self.api, Wanted(gpus=(), disk_gb=DISK_GB), self.clock)
        home = Home(folder / "canary", folder)
        self.world = World(self.store, self.pods, self.clock, self.notes, home)

    def record(self, *, cap: float = 0.10, price_ceiling: float | None = None) -> RunRecord:
        spec = RunSpec(
            output_name="night",
            namespace="tests",
            provider="runpod",
            trainer=TrainerName.DIFFUSERS,
            recipe=Recipe(),
            inputs=(),
            budget=Budget(cap_dollars=5, max_seconds=36000, price_ceiling=price_ceiling),
            clocks=Clocks(create_lag_seconds=60, leak_seconds=300),
            image="registry/image@sha256:" + "0" * 64,
            disk_gb=DISK_GB,
        )
        return canary_record(spec, self.world, cap_dollars=cap)

    def journal(self) -> Journal:
        return Journal(self.store, "doctor")

    def fly(self, *, cap: float = 0.10, price_ceiling: float | None = None) -> Flight:
        record = self.record(cap=cap, price_ceiling=price_ceiling)
        return fly(self.world, self.journal(), record, forgotten=self._is_forgotten)

    def _is_forgotten(self, pod_id: str) -> bool:
        return self.api.terminate(pod_id) is Termination.NOT_KNOWN

    def records(self) -> tuple[RunRecord, ...]:
        return self.journal().records(lambda _: None)

    def close(self) -> None:
        with suppress(AssertionError):
            self.api.close()
        self.cloud.close()
