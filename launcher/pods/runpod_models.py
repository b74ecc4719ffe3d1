"""What RunPod's REST API v2 answers, as far as retrain uses it.

Read with tolerance: fields we do not use are passed over, an unknown word of a list becomes `UNKNOWN`. What
decisions rest on is required. A pod's environment holds a bearer URL and comes back in plain text: it is not
read at all.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from job.contract.schema import Utc


class _Tolerant(StrEnum):
    """A list of words that may grow: one that this version does not know is UNKNOWN, not an error."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls("UNKNOWN") if isinstance(value, str) else None


class PodStatus(_Tolerant):
    """A pod's state as RunPod tells it. An unknown one exists and bills."""

    PROVISIONING = "PROVISIONING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"
    ERROR = "ERROR"
    TERMINATED = "TERMINATED"
    UNKNOWN = "UNKNOWN"


class PodAction(_Tolerant):
    """What may be asked of a pod now."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    TERMINATE = "terminate"
    UNKNOWN = "UNKNOWN"


class Cloud(_Tolerant):
    """Whose machines: RunPod's own data centers, or its hosts'."""

    SECURE = "SECURE"
    COMMUNITY = "COMMUNITY"
    UNKNOWN = "UNKNOWN"


class Stock(_Tolerant):
    """How many are free, by the catalog: advice, not a reservation."""

    NONE = "NONE"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    UNKNOWN = "UNKNOWN"


class LogSource(_Tolerant):
    """`container`: what the job prints. `system`: the host, e.g. how far the image is pulled."""

    CONTAINER = "container"
    SYSTEM = "system"
    UNKNOWN = "UNKNOWN"


RentableCloud = Literal[Cloud.SECURE, Cloud.COMMUNITY]
ReadableLog = Literal[LogSource.CONTAINER, LogSource.SYSTEM]
Dollars = Annotated[float, Field(ge=0)]


class _Answer(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class PodGpu(_Answer):
    """Which GPUs a pod has."""

    id: str
    count: int = 1


class PodRuntime(_Answer):
    """What is told of a container that runs; empty while it does not yet."""

    uptime: int | None = None
    """Seconds since the container started."""


class RunpodPod(_Answer):
    """A pod that exists in the account, whoever made it."""

    id: Annotated[str, Field(min_length=1)]
    name: str
    status: PodStatus
    cost: Dollars
    """US dollars an hour now: 0 once it exited."""
    created_at: Utc
    started_at: Utc | None = None
    actions: tuple[PodAction, ...] = ()
    locked: bool = False
    gpu: PodGpu | None = None
    """None for a CPU pod."""
    cloud: Cloud = Cloud.UNKNOWN
    data_center_id: str | None = None
    cuda_version: str | None = None
    runtime: PodRuntime | None = None

    @property
    def container_up(self) -> bool:
        """Whether the container is known to run: RUNNING alone does not say so."""
        return self.runtime is not None and self.runtime.uptime is not None


class Pagination(_Answer):
    """Where a list goes on."""

    next_cursor: str | None = None
    has_next_page: bool | None = None


class PodPage(_Answer):
    """A list of pods, or a page of it."""

    pods: tuple[RunpodPod, ...]
    pagination: Pagination | None = None


class GpuPrice(_Answer):
    """US dollars an hour for one GPU."""

    secure: float | None
    community: float | None


class MaxCount(_Answer):
    """The most GPUs of a type that one pod can have."""

    secure: int = 0
    community: int = 0


class PlaceStock(_Answer):
    """How many are free in one data center."""

    id: str
    availability: Stock


class CudaStock(_Answer):
    """Whether machines with a CUDA version are free."""

    version: str
    available: bool


class GpuType(_Answer):
    """A GPU type of the catalog, with its price and what is free now."""

    id: Annotated[str, Field(min_length=1)]
    name: str
    memory: int
    """GB."""
    secure: bool
    community: bool
    price: GpuPrice
    max_count: MaxCount = MaxCount()
    availability: Stock = Stock.UNKNOWN
    data_centers: tuple[PlaceStock, ...] = ()
    cuda_versions: tuple[CudaStock, ...] = ()

    def price_per_hour(self, cloud: RentableCloud, *, count: int = 1) -> float | None:
        """Return US dollars an hour for a pod; None where it is not offered or the price is unknown.

        A price of 0 is unknown: nothing is for free, and a cap divided by it would never be reached.
        """
        secure = cloud is Cloud.SECURE
        offered, price = (
            (self.secure, self.price.secure) if secure else (self.community, self.price.community)
        )
        return price * count if offered and price is not None and price > 0 else None


class GpuCatalog(_Answer):
    """All GPU types."""

    gpus: tuple[GpuType, ...]


class BillingRow(_Answer):
    """What one pod cost in one span of time, in US dollars."""

    pod_id: str
    start_time: Utc
    end_time: Utc
    total_amount: float
    gpu_amount: float
    disk_amount: float


class PodBilling(_Answer):
    """Billing rows. Refreshed about every five minutes: an audit afterwards, not a control."""

    records: tuple[BillingRow, ...]


class LogEvent(_Answer):
    """One line of a pod's log."""

    line: str
    source: LogSource = LogSource.UNKNOWN
    ts: Utc | None = None
    event_id: str = ""
    """Where to go on from."""
