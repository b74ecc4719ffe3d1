"""Whether and where a pod can be rented, and at what price. The order of the rules is a guess."""

import secrets
from collections.abc import Callable
from datetime import datetime

from tests.simulators.runpod import catalog as market
from tests.simulators.runpod import requests, wire
from tests.simulators.runpod.faults import Misfortune
from tests.simulators.runpod.model import World
from tests.simulators.runpod.pod import Container, Pod, Workload
from tests.simulators.runpod.wire import Refusal

ENVIRONMENT_MAX = 50


def place(
    wanted: requests.CreatePod,
    world: World,
    now: datetime,
    misfortune: Callable[[], Misfortune],
    workload: Callable[[Pod], Workload],
) -> Pod:
    """Return a new pod. Raises Refusal; then no misfortune was used up."""
    if (wanted.gpu is None) == (wanted.cpu is None):
        raise Refusal(400, "exactly one of gpu or cpu must be set")
    if wanted.template_id is not None:
        raise Refusal(404, "template not found")
    if len(wanted.env) > ENVIRONMENT_MAX:
        raise Refusal(400, f"at most {ENVIRONMENT_MAX} environment variables")
    gpu_id, count, price, cuda = _hardware(wanted, world)
    needed = price * world.faults.conditions.hours_of_balance_to_deploy
    if world.ledger.balance(now) < needed:
        raise Refusal(402, "insufficient balance to deploy this pod")
    data_center = _data_center(world, gpu_id, count, wanted.data_center_ids)
    fate = misfortune()
    pod = Pod(
        pod_id=secrets.token_hex(7),
        name=wanted.name,
        image=wanted.image or "",
        args=wanted.args,
        environment=dict(wanted.env),
        disk_gb=wanted.disk,
        ports=list(wanted.ports),
        mounts=wanted.mounts.model_dump(by_alias=True, exclude_none=True),
        registry=wanted.registry,
        gpu_id=gpu_id,
        count=count,
        cpu_id=wanted.cpu.id if wanted.cpu else "",
        cloud=wanted.cloud,
        data_center=data_center,
        cuda=cuda,
        price_per_hour=round(price * fate.price_factor, 6),
        created_at=now,
        key=f"rpa_{secrets.token_hex(20)}",
        workload=_Unplaced(),
        misfortune=fate,
    )
    pod.workload = workload(pod)
    return pod


def _hardware(wanted: requests.CreatePod, world: World) -> tuple[str, int, float, str | None]:
    """Return GPU id, count, price and CUDA version. Raises Refusal."""
    if wanted.cpu is not None:
        if wanted.cpu.id not in market.CPU_FLAVORS:
            raise Refusal(400, "unknown CPU flavor")
        cpus = wanted.cpu.vcpu_count
        return "", cpus, market.USD_PER_VCPU_HOUR * cpus, None
    assert wanted.gpu is not None
    if wanted.gpu.count is None:
        # The document has a default of 1; without it, the live service says this.
        raise Refusal(400, wire.CAPACITY)
    if wanted.gpu.min_cuda_version and wanted.gpu.allowed_cuda_versions:
        raise Refusal(400, "minCudaVersion and allowedCudaVersions exclude each other")
    gpu = world.catalog.gpus.get(wanted.gpu.id)
    if gpu is None:
        raise Refusal(400, "unknown GPU type")
    if gpu.gpu_id in world.faults.conditions.forbidden_gpus:
        raise Refusal(403, "access denied")
    price = gpu.price(wanted.cloud)
    cuda = market.newest_cuda(wanted.gpu.min_cuda_version, wanted.gpu.allowed_cuda_versions)
    if price is None or cuda is None:
        raise Refusal(400, wire.CAPACITY)
    return gpu.gpu_id, wanted.gpu.count, price * wanted.gpu.count, cuda


def _data_center(world: World, gpu_id: str, count: int, wanted: list[str]) -> str:
    if not gpu_id:
        return (wanted or list(world.catalog.data_centers))[0]
    found = world.catalog.place(gpu_id, count, wanted, world.faults.conditions.no_capacity)
    if found is None:
        raise Refusal(400, wire.CAPACITY)
    return found


class _Unplaced:
    """Stands where a workload will be, until there is a pod to choose one for."""

    def start(self, container: Container) -> float | None:
        raise AssertionError("a pod was started before it was placed")

    def poll(self) -> int | None:
        return None

    def ask_to_end(self) -> int | None:
        return None

    def kill(self) -> None:
        pass
