"""What the core asks of the world: Protocols and the values that pass through them.

Knows the contract and `launcher.errors`. Adapters implement these; the core imports no adapter.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from job.contract.manifest import Link


class PodState(StrEnum):
    """What a provider says of a pod. Errors are no state: they raise."""

    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"
    """Its container ended; it may still exist and bill."""


SOLD_OUT = "none"
"""The stock of an offer that is not to be had now, as far as the provider knows."""


@dataclass(frozen=True)
class Offer:
    """A machine that could be rented."""

    name: str
    """What the provider calls it, e.g. a GPU id."""
    price_per_hour: float
    """US dollars."""
    location: str = ""
    """Where, in the provider's words, e.g. cloud and data center."""
    stock: str = ""
    """How many there are, in the provider's words or SOLD_OUT: advice, not a reservation."""


@dataclass(frozen=True)
class PodSpec:
    """A pod to create. `name` is unique to the attempt."""

    name: str
    offer: Offer
    environment: Mapping[str, str] = field(repr=False)
    """Holds a bearer URL: never shown."""
    image: str = ""
    disk_gb: int = 0


@dataclass(frozen=True)
class Pod:
    """A pod that exists."""

    pod_id: str
    name: str
    state: PodState
    created_at: datetime
    price_per_hour: float
    """US dollars, as billed now."""
    console_url: str = ""
    """Where a person can look at it and end it."""


class Pods(Protocol):
    """A provider of pods. Every method raises PodError when the provider cannot answer."""

    provider: str

    @property
    def place(self) -> str:
        """Where its pods can be reached from: empty for everywhere, else what runs them."""
        ...

    def offers(self) -> Sequence[Offer]:
        """Return what can be rented now, in order of preference."""
        ...

    def create(self, spec: PodSpec) -> Pod:
        """Rent a pod and return at once.

        Raises CreateRefused when no pod was made, its subclass CapacityError when this offer is not to be had
        now. After any other PodError the pod may exist all the same.
        """
        ...

    def find(self, name: str) -> Sequence[Pod]:
        """Return every existing pod of this name: more than one after an ambiguous create."""
        ...

    def get(self, pod_id: str) -> Pod | None:
        """Return a pod, or None when the provider says that it does not exist."""
        ...

    def list(self) -> Sequence[Pod]:
        """Return every existing pod of the account that retrain may have made."""
        ...

    def terminate(self, pod_id: str) -> bool:
        """Ask for a pod's end. Idempotent.

        True once the provider acknowledged it or does not know the pod, False for not yet. Neither proves
        that the pod is gone: a young one may not be known yet.
        """
        ...

    def now(self) -> datetime:
        """Return the time by the provider's clock. It may ask for it, or go on from its last answer."""
        ...

    def billed(self, pod_id: str, *, since: datetime, until: datetime) -> float | None:
        """Return what a pod that is gone was billed between two times as far as is known, in US dollars.

        None where this provider sends no bills. A bill may lag behind by minutes.
        """
        ...

    def logs(self, pod_id: str, *, tail: int = 100) -> Sequence[str]:
        """Return the newest lines of the pod's own output, as far as the provider has them."""
        ...

    def boot_log(self, pod_id: str) -> str:
        """Return the provider's newest line on how a pod comes up, such as an image pull; "" for none."""
        ...


@dataclass(frozen=True)
class Stored:
    """An object's description."""

    key: str
    size: int
    etag: str
    modified_at: datetime
    """By the store's clock."""


class Store(Protocol):
    """A bucket. Every method raises StorageError when the store cannot answer."""

    def get(self, key: str) -> tuple[bytes, str]:
        """Return a small object's content and ETag. Raises ObjectMissing."""
        ...

    def put(self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> str:
        """Write a small object and return its ETag.

        Raises PreconditionFailed when the condition does not hold.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is absent is no error."""
        ...

    def list(self, prefix: str) -> Sequence[Stored]:
        """Return every object below `prefix`, in order of key."""
        ...

    def upload(self, path: Path, key: str) -> None:
        """Write a file of any size."""
        ...

    def upload_all(self, files: Mapping[str, Path]) -> None:
        """Write files of any size, key → path, side by side; the first that fails ends the others."""
        ...

    def download(self, key: str, path: Path, *, offset: int = 0) -> Iterator[int]:
        """Append the object's content from byte `offset` on to `path`; yield bytes written as they come.

        While none come it may yield 0, so that whoever reads may stop. Raises ObjectMissing.
        """
        ...

    def now(self) -> datetime:
        """Return the time by the store's clock."""
        ...

    def presign_get(self, key: str, *, expires_at: datetime) -> Link:
        """Return a link to read an object, valid until `expires_at` or as long as the credentials are."""
        ...

    def presign_put(self, key: str, *, expires_at: datetime, create_only: bool = False) -> Link:
        """Return a link to write an object; `create_only` signs `If-None-Match: *` into it."""
        ...


class Clock(Protocol):
    """Time on this machine; judgements across machines use the store's."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Notifier(Protocol):
    """Tells a person what happens. May not fail: whoever implements it swallows its own troubles."""

    def say(self, message: str) -> None:
        """Pass on one line."""
        ...
