"""The simulator put together: a test serves it, moves its time, sets faults and reads the truth."""

import secrets
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType

from tests.simulators.runpod.catalog import Catalog
from tests.simulators.runpod.checks import Checks
from tests.simulators.runpod.clock import FakeClock, Now, real_now
from tests.simulators.runpod.faults import TERMINATIONS, Fault, Faults, Misfortune, Operation, Trouble
from tests.simulators.runpod.ledger import spent
from tests.simulators.runpod.model import World
from tests.simulators.runpod.operations import Operations
from tests.simulators.runpod.placement import place
from tests.simulators.runpod.pod import Pod, Status, Timing, Workload
from tests.simulators.runpod.pods import Inert, environment
from tests.simulators.runpod.requests import CreatePod, GpuWanted
from tests.simulators.runpod.server import Server
from tests.simulators.runpod.service import Record, Service
from tests.simulators.runpod.transport import Transport

TICK_SECONDS = 0.05


class Simulator:
    """One account at RunPod. A context manager: leaving it ends every process and checks the checks.

    `now` None means real time, with a thread that lets it do its work; else time is whatever `now` says, and
    work is done at requests and at `tick`.
    """

    def __init__(
        self,
        now: Now | None = None,
        *,
        balance: float = 100.0,
        timing: Timing | None = None,
        catalog: Catalog | None = None,
        workload: Callable[[Pod], Workload] = lambda pod: Inert(),
        document: Path | None = None,
    ) -> None:
        self.now: Now = now or real_now
        self.account_key = f"rpa_{secrets.token_hex(20)}"
        self.faults = Faults()
        self.catalog = catalog or Catalog()
        self.checks = Checks(document)
        self.world = World(
            self.catalog,
            self.faults,
            timing or Timing(),
            balance=balance,
            at=self.now(),
            environment=environment,
            now=self.now,
        )
        operations = Operations(self.world, self.checks, workload)
        self.service = Service(self.world, operations, self.checks, self.now, {self.account_key})
        self._server: Server | None = None
        self._closing = threading.Event()
        self._ticker: threading.Thread | None = None
        if now is None:
            self._ticker = threading.Thread(target=self._tick_along, name="runpod", daemon=True)
            self._ticker.start()

    def __enter__(self) -> "Simulator":
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; a failed test is not covered by a failed check."""
        self.close(check=kind is None)

    def serve(self) -> str:
        """Serve on a port of loopback and return the base URL, which stands for https://api.runpod.io."""
        self._server = self._server or Server(self.service)
        return self._server.url

    def transport(self) -> Transport:
        """Return a transport for an httpx client in this process; any base URL will do."""
        return Transport(self.service)

    def close(self, *, check: bool = True) -> None:
        """End everything that runs. Raises AssertionError when an answer did not fit the contract."""
        self._closing.set()
        if self._ticker is not None:
            self._ticker.join()
        if self._server is not None:
            self._server.close()
        with self.service.lock:
            for pod in self.world.pods.values():
                pod.workload.kill()
        if check:
            self.checks.conclude()

    # Time.

    def advance(self, seconds: float) -> None:
        """Let a fake clock's time pass, and everything in it happen."""
        assert isinstance(self.now, FakeClock), "this time is not the simulator's to move"
        self.now.advance(seconds)
        self.tick()

    def tick(self) -> None:
        """Do what is due now. Scripts are called without the lock: they may send requests."""
        with self.service.lock:
            self.world.settle(self.now())
            up = [(pod, pod.life) for pod in self.world.living() if pod.up_since is not None]
        for pod, life in up:
            if pod.life != life or pod.up_since is None:
                continue
            code = pod.workload.poll()
            if code is not None:
                with self.service.lock:
                    self.world.exited(pod, life, code, self.now())

    def _tick_along(self) -> None:
        while not self._closing.wait(TICK_SECONDS):
            self.tick()

    # Faults, beside `faults.conditions`, `faults.next_pods` and `faults.every_pod`.

    def trouble(
        self,
        trouble: Trouble,
        *operations: Operation,
        times: int | None = 1,
        skip: int = 0,
        after_effect: bool = False,
        until: datetime | None = None,
        by_pods: bool | None = None,
    ) -> Fault:
        """Let the next requests go wrong; no operations means all."""
        fault = Fault(
            trouble,
            frozenset(operations),
            times=times,
            skip=skip,
            after_effect=after_effect,
            until=until,
            by_pods=by_pods,
        )
        self.faults.answers.append(fault)
        return fault

    def refuse_terminations(self, until: datetime, trouble: Trouble = Trouble.SERVER_ERROR) -> None:
        """Let no pod be ended by anybody for a while."""
        self.trouble(trouble, *TERMINATIONS, times=None, until=until)

    def host_restarts(self, pod_id: str) -> None:
        """The pod's host goes down and comes back."""
        with self.service.lock:
            self.world.settle(self.now())
            self.world.host_restarts(self.world.pods[pod_id], self.now())

    def host_kills(self, pod_id: str, *, leaves: Status = Status.TERMINATED) -> None:
        """The pod's host fails."""
        with self.service.lock:
            self.world.settle(self.now())
            self.world.host_kills(self.world.pods[pod_id], self.now(), leaves=leaves)

    def set_balance(self, dollars: float) -> None:
        """Set what is left of the account's balance."""
        with self.service.lock:
            self.world.settle(self.now())
            self.world.ledger.set_balance(dollars, self.now())

    def add_stranger(self, name: str, *, gpu_id: str = "NVIDIA A40") -> Pod:
        """Put a pod into the account that somebody else made."""
        with self.service.lock:
            self.world.settle(self.now())
            wanted = CreatePod(name=name, image="stranger/image", gpu=GpuWanted(id=gpu_id, count=1))
            pod = place(wanted, self.world, self.now(), Misfortune, lambda pod: Inert())
            pod.stranger = True
            self.world.add(pod)
            return pod

    # The truth.

    @property
    def pods(self) -> list[Pod]:
        """Every pod that ever was, strangers' too."""
        with self.service.lock:
            self.world.settle(self.now())
            return list(self.world.pods.values())

    @property
    def existing(self) -> list[Pod]:
        """The pods that exist and are not strangers': after a run there should be none."""
        return [pod for pod in self.pods if pod.exists and not pod.stranger]

    def spent(self, pod_id: str = "") -> float:
        """Return what a pod, or every pod but strangers', has cost until now, in US dollars."""
        pods = [pod for pod in self.pods if (pod.pod_id == pod_id if pod_id else not pod.stranger)]
        return sum(spent(pod, self.now()) for pod in pods)

    @property
    def balance(self) -> float:
        """What is left, in US dollars."""
        with self.service.lock:
            self.world.settle(self.now())
            return self.world.ledger.balance(self.now())

    @property
    def records(self) -> list[Record]:
        """Every request so far."""
        with self.service.lock:
            return list(self.service.records)

    @property
    def touched_strangers(self) -> list[Record]:
        """Requests that would have changed somebody else's pod."""
        return [record for record in self.records if record.touched_a_stranger]
