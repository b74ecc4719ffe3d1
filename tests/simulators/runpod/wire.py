"""What the API says, as JSON: pods, catalog, billing, problems. From state to documents, nothing else."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from tests.simulators.runpod.catalog import COMMUNITY, CUDA_VERSIONS, SECURE, Catalog, Gpu
from tests.simulators.runpod.ledger import Record
from tests.simulators.runpod.pod import ACTIONS, LogLine, Pod

GB_PER_VCPU = 2
CAPACITY = (
    "There are no longer any instances available with the requested specifications. "
    "Please refresh and try again."
)
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    410: "Gone",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
}


class Delivery(Enum):
    """How an answer reaches the client."""

    WHOLE = auto()
    NEVER = auto()
    """The connection stays open without a byte."""
    CUT = auto()
    """The connection ends without a byte."""


@dataclass
class Answer:
    """One answer. `value` is JSON to be checked and sent, else `text` goes out as it is."""

    status: int
    value: Any = None
    schema: str = ""
    text: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = Delivery.WHOLE
    follow: "Follow | None" = None
    """For logs: the lines come as they are written."""


@dataclass(frozen=True)
class Follow:
    """A log stream: which pod's lines from where on."""

    pod: Pod
    source: str | None
    after: int
    """The number of the last line that is not sent."""


class Refusal(Exception):
    """A request that the API refuses."""

    def __init__(self, status: int, detail: str, *, errors: list[str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors


def problem(status: int, detail: str, errors: list[str] | None = None) -> Answer:
    """Return an error as problem+json."""
    value: dict[str, Any] = {"title": TITLES[status], "status": status, "detail": detail}
    if errors:
        value["errors"] = errors
    return Answer(status, value, "ErrorResponse", content_type="application/problem+json")


def moment(at: datetime | None) -> str | None:
    """Return a time as the API writes it, in whole seconds."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod_document(pod: Pod, now: datetime) -> dict[str, Any]:
    """Return a pod."""
    document = {
        "id": pod.pod_id,
        "name": pod.name,
        "status": str(pod.status),
        "actions": list(ACTIONS[pod.status]),
        "image": pod.image,
        "args": pod.args,
        "disk": pod.disk_gb,
        "mounts": pod.mounts,
        "ports": pod.ports,
        "env": pod.environment,
        "registry": pod.registry,
        "cloud": pod.cloud,
        "dataCenterId": pod.data_center,
        "cudaVersion": pod.cuda,
        "ssh": {"proxy": None, "direct": None},
        "template": None,
        "cost": pod.usd_per_hour_now,
        "locked": pod.locked,
        "runtime": _runtime(pod, now),
        "createdAt": moment(pod.created_at),
        "startedAt": moment(pod.started_at),
        "globalNetworking": {"enabled": False},
    }
    if pod.gpu_id:
        document["gpu"] = {"id": pod.gpu_id, "count": pod.count}
    else:
        memory = GB_PER_VCPU * pod.count
        document["cpu"] = {"id": pod.cpu_id, "vcpuCount": pod.count, "memory": memory}
    return document


def _runtime(pod: Pod, now: datetime) -> dict[str, Any] | None:
    if pod.up_since is None:
        return None
    return {
        "uptime": max(0, int((now - pod.up_since).total_seconds())),
        "gpus": [{"util": 90, "memoryUtil": 70}] * (pod.count if pod.gpu_id else 0),
        "cpu": {"util": 30},
        "memory": {"util": 40},
        "ports": [],
    }


def gpu_document(
    gpu: Gpu, catalog: Catalog, *, availability: bool, count: int, cloud: str, minimum_cuda: str | None
) -> dict[str, Any]:
    """Return a GPU type; its stock only where it is asked for, as the API does."""
    document: dict[str, Any] = {
        "id": gpu.gpu_id,
        "name": gpu.name,
        "pool": None,
        "manufacturer": "NVIDIA",
        "memory": gpu.memory_gb,
        "secure": gpu.secure is not None,
        "community": gpu.community is not None,
        "price": {"secure": gpu.secure or 0.0, "community": gpu.community or 0.0},
        "maxCount": {"secure": 8 if gpu.secure else 0, "community": 4 if gpu.community else 0},
    }
    if not availability:
        return document
    offered = gpu.price(cloud) is not None
    places = [
        {"id": place, "name": place, "availability": level}
        for place in catalog.data_centers
        if offered and (level := catalog.level(gpu.gpu_id, data_center=place, count=count)) != "NONE"
    ]
    document["availability"] = catalog.level(gpu.gpu_id, count=count) if offered else "NONE"
    if places:
        document["dataCenters"] = places
    floor = [int(part) for part in (minimum_cuda or "0").split(".")]
    document["cudaVersions"] = [
        {"version": version, "available": bool(places)}
        for version in CUDA_VERSIONS
        if [int(part) for part in version.split(".")] >= floor
    ]
    return document


def data_center_document(place: str, catalog: Catalog, *, availability: bool) -> dict[str, Any]:
    """Return a data center."""
    document: dict[str, Any] = {
        "id": place,
        "name": place,
        "region": catalog.data_centers[place],
        "globalNetwork": False,
        "networkVolumeTypes": [],
        "compliance": [],
    }
    if availability:
        document["gpuAvailability"] = [
            {"id": gpu.gpu_id, "name": gpu.name, "availability": catalog.level(gpu.gpu_id, data_center=place)}
            for gpu in catalog.gpus.values()
        ]
    return document


def billing_document(
    records: list[Record], begin: datetime, end: datetime, size: str, pod_id: str | None
) -> dict[str, Any]:
    """Return pods' bills."""
    shown = [
        {
            "startTime": moment(record.begin),
            "endTime": moment(record.end),
            "podId": record.pod.pod_id,
            **_amounts([record]),
        }
        for record in records
    ]
    return {
        "records": shown,
        "metadata": {
            "query": {
                "startTime": moment(begin),
                "endTime": moment(end),
                "bucketSize": size,
                "podId": pod_id,
            },
            "recordCount": len(shown),
            "uniquePodCount": len({record.pod.pod_id for record in records}),
            "totals": _amounts(records),
        },
    }


def _amounts(records: list[Record]) -> dict[str, float]:
    gpu = sum(record.compute for record in records if record.pod.gpu_id)
    cpu = sum(record.compute for record in records if not record.pod.gpu_id)
    disk = sum(record.disk for record in records)
    return {"totalAmount": gpu + cpu + disk, "gpuAmount": gpu, "cpuAmount": cpu, "diskAmount": disk}


def log_document(line: LogLine) -> tuple[str, dict[str, str]]:
    """Return a line's event id and its data."""
    at = moment(line.at) or ""
    return f"{at}/{line.number:012d}", {"ts": at, "source": line.source, "line": line.text}


def default_cloud(cloud: str | None) -> str:
    """Return the cloud that is meant when none is named."""
    return cloud if cloud == COMMUNITY else SECURE
