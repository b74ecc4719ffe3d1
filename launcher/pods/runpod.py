"""Pods that are rented at RunPod: what is wanted, in which order, and what RunPod's answers mean for a run.

Speaks to RunPod through `RunpodApi`. Names tell our pods from a stranger's; nothing else of the account is
looked at or touched.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches

from pydantic import SecretStr

from launcher.errors import PodError, UsageError
from launcher.pods.runpod_account import Balance
from launcher.pods.runpod_api import RunpodApi
from launcher.pods.runpod_models import (
    Cloud,
    GpuType,
    LogSource,
    PodStatus,
    RentableCloud,
    RunpodPod,
    Stock,
)
from launcher.pods.runpod_request import CreatePod, GpuRequest
from launcher.ports import Clock, Offer, Pod, PodSpec, PodState

NAME_PREFIX = "retrain-"
CONSOLE_URL = "https://console.runpod.io/pods"
BALANCE_SECONDS = 60.0
"""How long a balance that was read counts as known."""
HOURS_OF_BALANCE = 1.0
"""RunPod rents nothing to an account that could not pay it for about an hour."""
DISK_DOLLARS_PER_GB_HOUR = 0.10 / (30 * 24)
"""Billed beside the GPU's price, by RunPod's documents: $0.10 per GB and month. No API tells it."""
_STATES = {
    PodStatus.PROVISIONING: PodState.STARTING,
    PodStatus.STARTING: PodState.STARTING,
    PodStatus.EXITED: PodState.ENDED,
    PodStatus.ERROR: PodState.ENDED,
}


@dataclass(frozen=True)
class Wanted:
    """What may be rented. The preferred one first, everywhere."""

    gpus: tuple[str, ...]
    """GPU types by their id; empty for any."""
    clouds: tuple[RentableCloud, ...] = (Cloud.SECURE,)
    data_centers: tuple[str, ...] = ()
    """Tried one by one; empty for any."""
    min_cuda_version: str | None = None
    registry: str | None = None
    """Id of a registry credential in the account."""
    disk_gb: int = 0
    """What each pod gets, which its price has to include."""


class RunpodPods:
    """RunPod as a provider of pods."""

    provider = "runpod"
    place = ""

    def __init__(
        self, api: RunpodApi, wanted: Wanted, clock: Clock, *, balance: Callable[[], Balance] | None = None
    ) -> None:
        """`balance` asks for what the account has; without it, offers are made whatever it has."""
        self._api = api
        self._wanted = wanted
        self._clock = clock
        self._ask_balance = balance
        self._balance: tuple[Balance, float] | None = None

    def offers(self) -> Sequence[Offer]:
        """Return what is wanted, has a price and can be paid for an hour; what is out of stock comes last.

        Prices include the disk: it is on the bill, and a ceiling without it would not bound that.
        Raises PodError when RunPod does not tell prices or balance: neither is ever guessed.
        """
        disk = self._wanted.disk_gb * DISK_DOLLARS_PER_GB_HOUR
        offers = [
            Offer(gpu.id, price + disk, _location(cloud, place), stock.value.lower())
            for gpu, cloud in self._types()
            for place in self._wanted.data_centers or ("",)
            if (price := gpu.price_per_hour(cloud)) is not None and (stock := _stock(gpu, place)) is not None
        ]
        offers.sort(key=lambda offer: offer.stock == Stock.NONE.value.lower())
        return self._affordable(offers)

    def balance(self) -> Balance | None:
        """Return what the account has, as read a minute ago at most; None where nobody asks.

        Raises PodError.
        """
        if self._ask_balance is None:
            return None
        now = self._clock.monotonic()
        if self._balance is None or now - self._balance[1] > BALANCE_SECONDS:
            self._balance = (self._ask_balance(), now)
        return self._balance[0]

    def check_wanted(self) -> None:
        """Raise UsageError for GPU types that RunPod does not have, PodError when it does not answer."""
        known = {gpu.id for cloud in self._wanted.clouds for gpu in self._catalog(cloud)}
        for name in self._wanted.gpus:
            if name not in known:
                near = get_close_matches(name, known, n=1, cutoff=0.3)
                raise UsageError(
                    f"RunPod has no GPU type {name!r}" + (f"; is it {near[0]!r}?" if near else ""),
                    next_step="correct runpod.gpus",
                )

    def create(self, spec: PodSpec) -> Pod:
        """Rent a pod and return at once. Raises as the port says."""
        cloud, place = _where(spec.offer.location)
        request = CreatePod(
            name=spec.name,
            image=spec.image,
            gpu=GpuRequest(id=spec.offer.name, min_cuda_version=self._wanted.min_cuda_version),
            cloud=cloud,
            disk=spec.disk_gb,
            env={name: SecretStr(value) for name, value in spec.environment.items()},
            registry=self._wanted.registry,
            data_center_ids=(place,) if place else (),
        )
        self._balance = None
        return _pod(self._api.create(request))

    def find(self, name: str) -> Sequence[Pod]:
        """Return the existing pods of this name."""
        return [pod for pod in self.list() if pod.name == name]

    def get(self, pod_id: str) -> Pod | None:
        """Return a pod, or None when RunPod says that it does not exist or was terminated."""
        pod = self._api.pod(pod_id)
        return None if pod is None or pod.status is PodStatus.TERMINATED else _pod(pod)

    def list(self) -> Sequence[Pod]:
        """Return every existing pod of the account whose name is one of ours."""
        return [
            _pod(pod)
            for pod in self._api.pods()
            if pod.name.startswith(NAME_PREFIX) and pod.status is not PodStatus.TERMINATED
        ]

    def terminate(self, pod_id: str) -> bool:
        """Ask for a pod's end. True unless RunPod refused or did not answer, and then it raises."""
        self._api.terminate(pod_id)
        return True

    def now(self) -> datetime:
        """Return the time by RunPod's clock."""
        return self._api.now()

    def logs(self, pod_id: str, *, tail: int = 100) -> Sequence[str]:
        """Return the newest lines that the job printed."""
        return [event.line for event in self._api.logs(pod_id, source=LogSource.CONTAINER, tail=tail)]

    def billed(self, pod_id: str, *, since: datetime, until: datetime) -> float | None:
        """Return the sum of what RunPod's billing has for a pod: GPU and disk."""
        return sum(row.total_amount for row in self._api.billing(pod_id, since, until))

    def boot_log(self, pod_id: str) -> str:
        """Return the newest line of the host's log, such as how far the image is pulled."""
        events = self._api.logs(pod_id, source=LogSource.SYSTEM, tail=1)
        return events[-1].line if events else ""

    def _types(self) -> Sequence[tuple[GpuType, RentableCloud]]:
        """Return the wanted GPU types of the wanted clouds that RunPod has, in the order of preference."""
        found = {(gpu.id, cloud): gpu for cloud in self._wanted.clouds for gpu in self._catalog(cloud)}
        return [
            (found[name, cloud], cloud)
            for name in self._wanted.gpus or sorted({name for name, _ in found})
            for cloud in self._wanted.clouds
            if (name, cloud) in found
        ]

    def _catalog(self, cloud: RentableCloud) -> Sequence[GpuType]:
        return self._api.gpus(cloud=cloud, min_cuda_version=self._wanted.min_cuda_version)

    def _affordable(self, offers: Sequence[Offer]) -> Sequence[Offer]:
        """Leave out what the balance does not pay for an hour. Raises PodError when nothing remains."""
        has = self.balance()
        if has is None or not offers:
            return offers
        paid = [offer for offer in offers if offer.price_per_hour * HOURS_OF_BALANCE <= has.dollars]
        if not paid:
            raise PodError(
                f"the account's balance of ${has.dollars:.2f} does not pay for an hour of any GPU wanted",
                next_step="add credit in RunPod's console under Billing",
            )
        return paid


def _pod(pod: RunpodPod) -> Pod:
    # RUNNING is said before the image is there; only a runtime shows that the container runs.
    running = PodState.RUNNING if pod.container_up else PodState.STARTING
    return Pod(
        pod_id=pod.id,
        name=pod.name,
        state=_STATES.get(pod.status, running),
        created_at=pod.created_at,
        price_per_hour=pod.cost,
        console_url=CONSOLE_URL,
    )


def _stock(gpu: GpuType, place: str) -> Stock | None:
    """Return how many there are in a data center, "" for all; None where this type is not offered there."""
    if not place:
        return gpu.availability
    return next((each.availability for each in gpu.data_centers if each.id == place), None)


def _location(cloud: RentableCloud, place: str) -> str:
    return f"{cloud.value} {place}".strip()


def _where(location: str) -> tuple[RentableCloud, str]:
    """Return cloud and data center of an offer's location."""
    cloud, _, place = location.partition(" ")
    return (Cloud.COMMUNITY if cloud == Cloud.COMMUNITY.value else Cloud.SECURE), place
