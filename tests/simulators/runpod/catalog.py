"""What can be rented: GPU types with prices, data centers, and how many GPUs are free where.

Prices are those seen in autumn 2026; the catalog is the simulator's own, not a copy of the live one.
"""

from dataclasses import dataclass, field

SECURE, COMMUNITY = "SECURE", "COMMUNITY"
CUDA_VERSIONS = ("12.4", "12.8")
"""Versions that hosts report; a pod gets the newest that it allows."""
USD_PER_VCPU_HOUR = 0.02
"""A guess: only that CPU pods are cheap matters."""
CPU_FLAVORS = ("cpu3c", "cpu5c")
PLENTY = 6
SOME = 3


@dataclass(frozen=True)
class Gpu:
    """A GPU type. Prices in USD per hour and GPU; None where that cloud does not offer it."""

    gpu_id: str
    memory_gb: int
    secure: float | None
    community: float | None = None

    @property
    def name(self) -> str:
        """Return what people call it."""
        return self.gpu_id.removeprefix("NVIDIA ").removeprefix("GeForce ")

    def price(self, cloud: str) -> float | None:
        """Return the price in a cloud."""
        return self.secure if cloud == SECURE else self.community


GPUS = (
    Gpu("NVIDIA A40", 48, 0.49),
    Gpu("NVIDIA RTX A6000", 48, 0.53),
    Gpu("NVIDIA L40S", 48, 1.09, 0.79),
    Gpu("NVIDIA L40", 48, 0.82),
    Gpu("NVIDIA RTX A5000", 24, 0.27, 0.16),
    Gpu("NVIDIA GeForce RTX 3090", 24, 0.50, 0.22),
    Gpu("NVIDIA GeForce RTX 4090", 24, 0.69, 0.34),
    Gpu("NVIDIA L4", 24, 0.49),
)
DATA_CENTERS = {
    "EU-SE-1": "EUROPE",
    "EU-RO-1": "EUROPE",
    "US-KS-2": "NORTH_AMERICA",
    "CA-MTL-1": "NORTH_AMERICA",
}


@dataclass
class Catalog:
    """GPU types and how many are free: `stock` by GPU id and data center."""

    gpus: dict[str, Gpu] = field(default_factory=lambda: {gpu.gpu_id: gpu for gpu in GPUS})
    data_centers: dict[str, str] = field(default_factory=lambda: dict(DATA_CENTERS))
    """Id → region."""
    stock: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.stock:
            self.set_stock(8)

    def set_stock(self, free: int, *, gpu_id: str = "", data_center: str = "") -> None:
        """Set how many GPUs are free; of every type and everywhere where nothing is named."""
        for gpu in [gpu_id] if gpu_id else self.gpus:
            for place in [data_center] if data_center else self.data_centers:
                self.stock[gpu, place] = free

    def level(self, gpu_id: str, *, data_center: str = "", count: int = 1) -> str:
        """Return NONE, LOW, MEDIUM or HIGH, in one data center or at the best of all."""
        places = [data_center] if data_center else list(self.data_centers)
        free = max((self.stock.get((gpu_id, place), 0) for place in places), default=0)
        if free < count:
            return "NONE"
        return "HIGH" if free >= PLENTY else "MEDIUM" if free >= SOME else "LOW"

    def place(self, gpu_id: str, count: int, wanted: list[str], refused: set[tuple[str, str]]) -> str | None:
        """Return the first data center that has the GPUs, None when none has.

        `refused`: pairs of GPU id and data center that refuse whatever the stock says; "" stands for all.
        """
        for place in wanted or list(self.data_centers):
            closed = {(gpu_id, place), (gpu_id, ""), ("", place), ("", "")} & refused
            if not closed and self.stock.get((gpu_id, place), 0) >= count:
                return place
        return None

    def take(self, gpu_id: str, data_center: str, count: int) -> None:
        """Take GPUs out of the stock; a negative count gives them back."""
        if gpu_id in self.gpus:
            self.stock[gpu_id, data_center] -= count


def newest_cuda(minimum: str | None, allowed: list[str]) -> str | None:
    """Return the newest CUDA version that a request accepts, None when no host has one."""
    fitting = [
        version
        for version in CUDA_VERSIONS
        if (not allowed or version in allowed) and (minimum is None or _number(version) >= _number(minimum))
    ]
    return max(fitting, key=_number, default=None)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
