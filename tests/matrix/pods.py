"""What runs in a simulated pod, and what only the simulator knows of all of them."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import SecretStr

from job.contract.manifest import DEADLINE_VARIABLE
from job.environment import OwnPod
from job.provider import Provider
from job.teardown import Teardown
from launcher.ports import PodSpec
from tests.fakes.job import FakeJob
from tests.fakes.pods import Bill
from tests.matrix.layers import Layer
from tests.simulators.runpod import Simulator
from tests.simulators.runpod.pod import Container, Pod

if TYPE_CHECKING:
    from tests.matrix.night import Night


class MainProcess:
    """PID 1 of a pod: the fake job, then the real one's way to end its pod. It never exits by itself."""

    def __init__(self, night: "Night", pod: Pod, options: Mapping[str, Any]) -> None:
        self._night = night
        self._deadline = datetime.fromisoformat(pod.environment[DEADLINE_VARIABLE])
        self._life = 0
        self._asking: Iterator[float] | None = None
        self._asks_at = night.store.at
        self.job = FakeJob(night.store, pod.pod_id, pod.environment, **options)

    def step(self, container: Container) -> None:
        """Work for a moment; once the job or its time is over, ask for the pod's end."""
        if container.life != self._life:
            if self._life:
                self.job.restart()
            self._life, self._asking = container.life, None
        now = self._night.store.at
        if now < self._deadline:
            self.job.tick()
        if Layer.JOB not in self._night.layers or not (self.job.over or now >= self._deadline):
            return
        if self._asking is None:
            self._asking, self._asks_at = self._teardown(container).asking(), now
        if now >= self._asks_at:
            self._asks_at = now + timedelta(seconds=next(self._asking))

    def _teardown(self, container: Container) -> Teardown:
        own = OwnPod(container.pod_id, SecretStr(container.environment["RUNPOD_API_KEY"]), "https://runpod")
        transport = self._night.cloud.transport()

        def connect(*, trust_env: bool) -> httpx.Client:
            return httpx.Client(transport=transport, headers={"User-Agent": "retrain-job/1"})

        return Teardown(Provider(own, connect), say=container.say)


class Truth:
    """Pods as they are, and what they cost, whoever knows of it."""

    underway = ()
    silent = False

    def __init__(self, cloud: Simulator) -> None:
        self._cloud = cloud
        self.created: list[PodSpec] = []
        self.ever: dict[str, FakeJob] = {}
        """The job of each pod that ever was."""

    @property
    def history(self) -> list[FakeJob]:
        return list(self.ever.values())

    @property
    def existing(self) -> Mapping[str, Pod]:
        return {pod.pod_id: pod for pod in self._cloud.existing}

    @property
    def jobs(self) -> Mapping[str, FakeJob]:
        return {pod_id: self.ever[pod_id] for pod_id in self.existing}

    @property
    def bills(self) -> Mapping[str, Bill]:
        return {
            pod.pod_id: Bill(
                pod.name,
                pod.price_per_hour,
                pod.created_at,
                datetime.fromisoformat(pod.environment[DEADLINE_VARIABLE]),
                pod.charges[-1].ended,
            )
            for pod in self._cloud.pods
            if not pod.stranger
        }
