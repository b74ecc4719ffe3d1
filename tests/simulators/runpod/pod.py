"""A pod as the provider knows it, and which status may follow which. Plain state."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from tests.simulators.runpod.faults import KeyRights, Misfortune

LOG_LINES_MAX = 20_000


class Status(StrEnum):
    """As in the API."""

    PROVISIONING = "PROVISIONING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"
    ERROR = "ERROR"
    TERMINATED = "TERMINATED"


_END = {Status.EXITED, Status.ERROR, Status.TERMINATED}
NEXT: Mapping[Status, set[Status]] = {
    Status.PROVISIONING: {Status.STARTING, *_END},
    Status.STARTING: {Status.RUNNING, *_END},
    Status.RUNNING: {Status.STARTING, *_END},
    Status.EXITED: {Status.STARTING, Status.TERMINATED},
    Status.ERROR: {Status.STARTING, Status.EXITED, Status.TERMINATED},
    Status.TERMINATED: set(),
}
ACTIONS: Mapping[Status, tuple[str, ...]] = {
    Status.PROVISIONING: ("stop", "terminate"),
    Status.STARTING: ("stop", "terminate"),
    Status.RUNNING: ("stop", "restart", "terminate"),
    Status.EXITED: ("start", "terminate"),
    Status.ERROR: ("start", "terminate"),
    Status.TERMINATED: (),
}


class BadTransition(Exception):
    """A status that may not follow the present one."""


@dataclass
class Timing:
    """How long things take, in seconds, without faults."""

    provision: float = 5.0
    start: float = 20.0
    """From STARTING to a container that is up: the image's pull."""
    restart: float = 1.0
    """From the main process's end to its next start."""
    host_restart: float = 30.0
    grace: float = 10.0
    """From SIGTERM to SIGKILL."""


@dataclass(frozen=True)
class LogLine:
    """A line of a pod's log; `number` counts them."""

    number: int
    at: datetime
    source: str
    """`container` or `system`."""
    text: str


@dataclass
class Charge:
    """A time at one price."""

    began: datetime
    usd_per_hour: float
    disk_usd_per_hour: float = 0.0
    ended: datetime | None = None


@dataclass(frozen=True)
class Container:
    """One life of a pod's container, as what runs in it sees it."""

    pod_id: str
    life: int
    image: str
    args: str
    environment: Mapping[str, str] = field(repr=False)
    now: Callable[[], datetime]
    say: Callable[[str], None]
    """Write a line to the container's log."""


class Workload(Protocol):
    """What runs in a pod: one object for all lives of its container."""

    def start(self, container: Container) -> float | None:
        """Start the main process. Return after how many seconds it ends by itself, None when `poll` tells."""
        ...

    def poll(self) -> int | None:
        """Do what is due now; return the main process's exit code once it has ended."""
        ...

    def ask_to_end(self) -> int | None:
        """Send SIGTERM to the main process. Return its exit code if it ended at once."""
        ...

    def kill(self) -> None:
        """Leave no process alive. May be called at any time, also twice."""
        ...


@dataclass
class Pod:
    """A pod of the account, whether it still exists or not."""

    pod_id: str
    name: str
    image: str
    args: str
    environment: dict[str, str] = field(repr=False)
    disk_gb: int
    ports: list[str]
    mounts: dict[str, Any]
    registry: str | None
    gpu_id: str
    """Empty for a CPU pod."""
    count: int
    """GPUs, or virtual CPUs of a CPU pod."""
    cpu_id: str
    cloud: str
    data_center: str
    cuda: str | None
    price_per_hour: float
    created_at: datetime
    key: str = field(repr=False)
    workload: Workload
    misfortune: Misfortune
    stranger: bool = False
    locked: bool = False
    status: Status = Status.PROVISIONING
    started_at: datetime | None = None
    ended_at: datetime | None = None
    """When it was really gone."""
    ended_by: str = ""
    ending: bool = False
    """Whether its end was accepted."""
    life: int = 0
    """How often its container was started."""
    boot: int = 0
    """How often it was set going; what was planned before belongs to an earlier one."""
    up_since: datetime | None = None
    """Since when its container has been running; None while it does not."""
    struck: bool = False
    """Whether its host's restart or failure is on its way or over."""
    charges: list[Charge] = field(default_factory=list)
    logs: deque[LogLine] = field(default_factory=lambda: deque(maxlen=LOG_LINES_MAX))
    log_lines: int = 0

    @property
    def exists(self) -> bool:
        """Whether it is there and may bill."""
        return self.status is not Status.TERMINATED

    @property
    def usd_per_hour_now(self) -> float:
        """Return what the API calls `cost`."""
        return 0.0 if self.status in (Status.EXITED, Status.TERMINATED) else self.price_per_hour

    def rights(self, default: KeyRights) -> KeyRights:
        """Return where its key is accepted."""
        return self.misfortune.key_rights or default

    def move(self, status: Status) -> None:
        """Change its status. Raises BadTransition; nothing follows TERMINATED."""
        if status not in NEXT[self.status]:
            raise BadTransition(f"{self.pod_id}: {self.status} → {status}")
        self.status = status

    def say(self, source: str, text: str, at: datetime) -> None:
        """Write a line to its log."""
        self.log_lines += 1
        self.logs.append(LogLine(self.log_lines, at, source, text))
