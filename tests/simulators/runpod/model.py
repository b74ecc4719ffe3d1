"""The account: pods, their lives and ends, in the order of time. Pure state: no HTTP, no thread, no clock.

`settle(now)` carries out everything that was due until `now`, each thing at its own moment: boots, exits and
restarts, hosts that fail, grace that is over, the balance that reaches zero. Whoever calls holds the lock.
"""

import heapq
import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto

from tests.simulators.runpod.catalog import Catalog
from tests.simulators.runpod.faults import Faults
from tests.simulators.runpod.ledger import HOURS_PER_MONTH, Ledger, spent
from tests.simulators.runpod.pod import Container, Pod, Status, Timing


class _What(Enum):
    START = auto()
    RUN = auto()
    EXIT = auto()
    HOST_RESTART = auto()
    HOST_KILL = auto()
    KILL = auto()
    GONE = auto()


@dataclass(order=True)
class _Event:
    at: datetime
    number: int
    pod: Pod = field(compare=False)
    what: _What = field(compare=False)
    boot: int = field(compare=False)
    life: int = field(compare=False)


class World:
    """Everything that the provider knows. `environment` makes what a container sees of a pod."""

    def __init__(
        self,
        catalog: Catalog,
        faults: Faults,
        timing: Timing,
        *,
        balance: float,
        at: datetime,
        environment: Callable[[Pod], dict[str, str]],
        now: Callable[[], datetime],
    ) -> None:
        self.catalog = catalog
        self.faults = faults
        self.timing = timing
        self.ledger = Ledger(balance, at)
        self.pods: dict[str, Pod] = {}
        """Every pod that ever was, in order of creation."""
        self._living: dict[str, Pod] = {}
        self._environment = environment
        self._now = now
        self._events: list[_Event] = []
        self._numbers = itertools.count()
        self._at = at

    def living(self) -> list[Pod]:
        """Return the pods that exist."""
        return list(self._living.values())

    def by_key(self, key: str) -> Pod | None:
        """Return the pod whose own key this is; the key of a pod that is gone is worth nothing."""
        return next((pod for pod in self._living.values() if secrets.compare_digest(pod.key, key)), None)

    def spent(self, now: datetime) -> float:
        """Return what all pods have cost, in US dollars."""
        return sum(spent(pod, now) for pod in self.pods.values())

    def add(self, pod: Pod) -> None:
        """Take in a new pod, charge it from now on and set it going."""
        self.pods[pod.pod_id] = self._living[pod.pod_id] = pod
        self.catalog.take(pod.gpu_id, pod.data_center, pod.count)
        pod.locked = pod.misfortune.locked
        self._charge(pod, pod.created_at)
        pod.say("system", f"create pod network for {pod.pod_id}", pod.created_at)
        if not pod.misfortune.stays_provisioning:
            self._plan(pod, _What.START, pod.created_at, self.timing.provision)

    def terminate(self, pod: Pod, at: datetime, *, by: str) -> None:
        """Accept a pod's end: SIGTERM, and SIGKILL when grace is over. Idempotent."""
        if not pod.exists or pod.ending:
            return
        pod.ending, pod.ended_by = True, by
        pod.say("system", f"stop container {pod.image}", at)
        if pod.up_since is None:
            self._plan_end(pod, at)
            return
        self._plan(pod, _What.KILL, at, self.timing.grace)
        if not pod.misfortune.ignores_sigterm:
            code = pod.workload.ask_to_end()
            if code is not None:
                self.exited(pod, pod.life, code, at)

    def stop(self, pod: Pod, at: datetime) -> None:
        """Stop a pod: its container disk is lost, its volume is charged."""
        self._halt(pod, Status.EXITED, at)

    def start(self, pod: Pod, at: datetime) -> None:
        """Boot a stopped pod."""
        pod.move(Status.STARTING)
        self.ledger.end(pod, at, billed_by_seconds=self.faults.conditions.billed_by_seconds)
        self._charge(pod, at)
        pod.boot += 1
        self._plan(pod, _What.RUN, at, self.timing.start)

    def restart(self, pod: Pod, at: datetime) -> None:
        """Restart a running pod's container in place."""
        self._down(pod)
        self._plan(pod, _What.RUN, at, self.timing.restart)

    def host_restarts(self, pod: Pod, at: datetime) -> None:
        """The host goes down and comes back: nothing in the container was asked."""
        self._down(pod)
        pod.boot += 1
        if pod.ending:
            self._plan_end(pod, at)
            return
        pod.move(Status.STARTING)
        pod.say("system", "host restarted", at)
        self._plan(pod, _What.RUN, at, self.timing.host_restart)

    def host_kills(self, pod: Pod, at: datetime, *, leaves: Status = Status.TERMINATED) -> None:
        """The host fails: the pod is gone, or is left EXITED or ERROR."""
        if leaves is Status.TERMINATED:
            pod.ended_by = "host"
            self._gone(pod, at)
        else:
            self._halt(pod, leaves, at)

    def exited(self, pod: Pod, life: int, code: int, at: datetime) -> None:
        """The main process of a life has ended: it is started again, unless the pod is to end."""
        if pod.life != life or pod.up_since is None:
            return
        self._down(pod)
        pod.say("system", f"container exited with code {code}", at)
        if pod.ending:
            self._plan_end(pod, at)
        else:
            self._plan(pod, _What.RUN, at, self.timing.restart)

    def settle(self, now: datetime) -> None:
        """Carry out what was due until `now`."""
        now = max(now, self._at)
        while True:
            empty = self.ledger.empty_at()
            due = self._events[0].at if self._events else None
            if empty is not None and empty <= now and (due is None or empty < due):
                self._sweep(max(empty, self._at))
            elif due is not None and due <= now:
                self._happen(heapq.heappop(self._events))
            else:
                break
        self._at = now

    def _plan_end(self, pod: Pod, at: datetime) -> None:
        lag = self.faults.conditions.end_lag_seconds
        if lag > 0:
            self._plan(pod, _What.GONE, at, lag)
        else:
            self._gone(pod, at)

    def _happen(self, event: _Event) -> None:
        pod, at = event.pod, event.at
        self._at = max(self._at, at)
        if not pod.exists or (event.boot != pod.boot and event.what is not _What.GONE):
            return
        match event.what:
            case _What.START if not pod.ending:
                pod.move(Status.STARTING)
                pod.say("system", f"create container {pod.image}", at)
                pod.say("system", f"{pod.image} Pulling from registry", at)
                self._plan(pod, _What.RUN, at, self.timing.start)
            case _What.RUN if not pod.ending:
                self._run(pod, at)
            case _What.EXIT if event.life == pod.life:
                self.exited(pod, event.life, 1, at)
            case _What.HOST_RESTART if not pod.ending:
                self.host_restarts(pod, at)
            case _What.HOST_KILL:
                self.host_kills(pod, at, leaves=Status(pod.misfortune.host_kill_leaves))
            case _What.KILL if pod.up_since is not None:
                pod.workload.kill()
                self.exited(pod, pod.life, 137, at)
            case _What.GONE:
                self._gone(pod, at)
            case _:
                pass

    def _run(self, pod: Pod, at: datetime) -> None:
        """The container comes up, unless it is up or the pod was made not to."""
        if pod.up_since is not None:
            return
        fate = pod.misfortune
        if fate.boots_into_error:
            pod.say("system", "error creating container: no such image", at)
            pod.move(Status.ERROR)
            return
        if pod.status is not Status.RUNNING:
            pod.move(Status.RUNNING)
            pod.started_at = at
        if fate.never_ready:
            return
        pod.say("system", f"start container {pod.image}: begin", at)
        pod.life += 1
        pod.up_since = at
        container = Container(
            pod_id=pod.pod_id,
            life=pod.life,
            image=pod.image,
            args=pod.args,
            environment=self._environment(pod),
            now=self._now,
            say=lambda text: pod.say("container", text, self._now()),
        )
        seconds = pod.workload.start(container)
        seconds = fate.restart_loop_seconds if fate.restart_loop_seconds is not None else seconds
        if seconds is not None:
            self._plan(pod, _What.EXIT, at, seconds)
        if not pod.struck:
            pod.struck = True
            if fate.host_restart_after is not None:
                self._plan(pod, _What.HOST_RESTART, at, fate.host_restart_after)
            if fate.host_kill_after is not None:
                self._plan(pod, _What.HOST_KILL, at, fate.host_kill_after)

    def _down(self, pod: Pod) -> None:
        pod.workload.kill()
        pod.up_since = None

    def _halt(self, pod: Pod, status: Status, at: datetime) -> None:
        """End the container and keep the pod."""
        self._down(pod)
        pod.boot += 1
        pod.move(status)
        if status is Status.EXITED:
            conditions = self.faults.conditions
            self.ledger.end(pod, at, billed_by_seconds=conditions.billed_by_seconds)
            volume_gb = pod.mounts.get("persistent", {}).get("size", 0)
            if volume_gb:
                rate = conditions.volume_usd_per_gb_month * volume_gb / HOURS_PER_MONTH
                self.ledger.begin(pod, 0.0, rate, at)
        if pod.ending:
            self._plan_end(pod, at)

    def _gone(self, pod: Pod, at: datetime) -> None:
        self._down(pod)
        pod.move(Status.TERMINATED)
        pod.ended_at = at
        pod.boot += 1
        self.ledger.end(pod, at, billed_by_seconds=self.faults.conditions.billed_by_seconds)
        self.catalog.take(pod.gpu_id, pod.data_center, -pod.count)
        del self._living[pod.pod_id]

    def _sweep(self, at: datetime) -> None:
        """The balance is zero: pods are ended with their data, those with a network volume are stopped."""
        for pod in self.living():
            if "network" in pod.mounts and pod.status is not Status.EXITED:
                self._halt(pod, Status.EXITED, at)
            elif "network" not in pod.mounts:
                pod.ended_by = "balance"
                self._gone(pod, at)

    def _charge(self, pod: Pod, at: datetime) -> None:
        disk = self.faults.conditions.disk_usd_per_gb_month * pod.disk_gb / HOURS_PER_MONTH
        self.ledger.begin(pod, pod.price_per_hour, disk, at)

    def _plan(self, pod: Pod, what: _What, at: datetime, seconds: float) -> None:
        moment = at + timedelta(seconds=seconds)
        heapq.heappush(self._events, _Event(moment, next(self._numbers), pod, what, pod.boot, pod.life))
