"""Strict models of every answer that the simulator gives, in the API's own spelling.

A field that is not listed is an error: the OpenAPI document is wider, and `checks.py` asks it too.
"""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

Text = Annotated[str, StringConstraints(min_length=1)]
Cuda = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+$")]
Cloud = Literal["SECURE", "COMMUNITY"]
Level = Literal["NONE", "LOW", "MEDIUM", "HIGH"]
Size = Literal["hour", "day", "week", "month", "year"]
Action = Literal["start", "stop", "restart", "terminate"]
Dollars = Annotated[float, Field(ge=0)]


class Shape(BaseModel):
    """A JSON object with exactly these fields."""

    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=to_camel, hide_input_in_errors=True, frozen=True
    )


class PersistentMount(Shape):
    size: Annotated[int, Field(ge=10)]
    path: str


class NetworkMount(Shape):
    volume_id: str
    path: str


class Mounts(Shape):
    persistent: PersistentMount | None = None
    network: Annotated[list[NetworkMount], Field(max_length=1)] | None = None


class Gpu(Shape):
    id: str
    count: Annotated[int, Field(ge=1)]


class Cpu(Shape):
    id: str
    vcpu_count: int
    memory: int


class Port(Shape):
    private: int
    public: int | None
    type: str
    ip: str | None


class Percent(Shape):
    util: Annotated[int, Field(ge=0, le=100)]


class GpuPercent(Percent):
    memory_util: Annotated[int, Field(ge=0, le=100)]


class Runtime(Shape):
    uptime: Annotated[int, Field(ge=0)]
    gpus: list[GpuPercent]
    cpu: Percent
    memory: Percent
    ports: list[Port]


class Ssh(Shape):
    proxy: None
    direct: None


class GlobalNetworking(Shape):
    enabled: Literal[False]


class PodShape(Shape):
    id: Text
    name: Text
    status: Literal["PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR", "TERMINATED"]
    actions: list[Action]
    image: str
    args: str
    disk: int
    mounts: Mounts
    ports: list[str]
    env: dict[str, str]
    registry: str | None
    gpu: Gpu | None = None
    cpu: Cpu | None = None
    cloud: Cloud
    data_center_id: str | None
    cuda_version: str | None
    ssh: Ssh
    template: None
    cost: Dollars
    locked: bool
    runtime: Runtime | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    global_networking: GlobalNetworking


class Page(Shape):
    next_cursor: str | None
    has_next_page: bool


class PodList(Shape):
    pods: list[PodShape]
    pagination: Page | None = None


class Price(Shape):
    secure: Dollars
    community: Dollars


class MaxCount(Shape):
    secure: int
    community: int


class Stocked(Shape):
    id: str
    name: str
    availability: Level


class CudaStock(Shape):
    version: Cuda
    available: bool


class GpuType(Shape):
    id: str
    name: str
    pool: str | None
    manufacturer: Literal["NVIDIA"]
    memory: int
    secure: bool
    community: bool
    price: Price
    max_count: MaxCount
    availability: Level | None = None
    data_centers: list[Stocked] | None = None
    cuda_versions: list[CudaStock] | None = None


class GpuTypes(Shape):
    gpus: list[GpuType]


class DataCenter(Shape):
    id: str
    name: str
    region: Literal["EUROPE", "NORTH_AMERICA", "ASIA", "OCEANIA"]
    global_network: bool
    network_volume_types: list[str]
    compliance: list[str]
    gpu_availability: list[Stocked] | None = None


class DataCenters(Shape):
    data_centers: list[DataCenter]


class Span(Shape):
    start_time: AwareDatetime
    end_time: AwareDatetime


class Amounts(Shape):
    total_amount: Dollars
    gpu_amount: Dollars
    cpu_amount: Dollars
    disk_amount: Dollars


class BillingRecord(Span, Amounts):
    pod_id: str


class BillingQuery(Span):
    bucket_size: Size
    pod_id: str | None


class BillingMetadata(Shape):
    query: BillingQuery
    record_count: int
    unique_pod_count: int
    totals: Amounts


class Billing(Shape):
    records: list[BillingRecord]
    metadata: BillingMetadata


class Problem(Shape):
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    errors: list[str] | None = None


class LogData(Shape):
    ts: AwareDatetime
    source: Literal["container", "system"]
    line: str


class GraphError(Shape):
    message: str


class GraphAnswer(Shape):
    data: dict[str, Any] | None = None
    errors: list[GraphError] | None = None
