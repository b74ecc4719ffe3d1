"""A provider that is not waited for: all calls together take a few seconds, whatever it does.

For what a command does beside its own work. Knows the port alone.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import TypeVar

from launcher.errors import PodError
from launcher.ports import Clock, Offer, Pod, Pods, PodSpec

T = TypeVar("T")


class Hurried:
    """Passes on to a provider until the time is up, or a call was not answered in it.

    A call that was given up may still take effect: to its caller it is a PodError, as every lost answer.
    """

    def __init__(self, pods: Pods, clock: Clock, *, seconds: float) -> None:
        self.provider = pods.provider
        self._pods = pods
        self._clock = clock
        self._until = clock.monotonic() + seconds

    @property
    def place(self) -> str:
        """As the port says."""
        return self._in_time(lambda: self._pods.place)

    def offers(self) -> Sequence[Offer]:
        """As the port says."""
        return self._in_time(self._pods.offers)

    def create(self, spec: PodSpec) -> Pod:
        """As the port says."""
        return self._in_time(lambda: self._pods.create(spec))

    def find(self, name: str) -> Sequence[Pod]:
        """As the port says."""
        return self._in_time(lambda: self._pods.find(name))

    def get(self, pod_id: str) -> Pod | None:
        """As the port says."""
        return self._in_time(lambda: self._pods.get(pod_id))

    def list(self) -> Sequence[Pod]:
        """As the port says."""
        return self._in_time(self._pods.list)

    def terminate(self, pod_id: str) -> bool:
        """As the port says."""
        return self._in_time(lambda: self._pods.terminate(pod_id))

    def now(self) -> datetime:
        """As the port says."""
        return self._in_time(self._pods.now)

    def billed(self, pod_id: str, *, since: datetime, until: datetime) -> float | None:
        """As the port says."""
        return self._in_time(lambda: self._pods.billed(pod_id, since=since, until=until))

    def logs(self, pod_id: str, *, tail: int = 100) -> Sequence[str]:
        """As the port says."""
        return self._in_time(lambda: self._pods.logs(pod_id, tail=tail))

    def boot_log(self, pod_id: str) -> str:
        """As the port says."""
        return self._in_time(lambda: self._pods.boot_log(pod_id))

    def _in_time(self, call: Callable[[], T]) -> T:
        left = self._until - self._clock.monotonic()
        if left <= 0:
            raise PodError("the provider is not asked any more now: it took too long")
        came: SimpleQueue[T | BaseException] = SimpleQueue()

        def ask() -> None:
            try:
                came.put(call())
            except BaseException as error:  # noqa: BLE001 - handed to who waits
                came.put(error)

        # A daemon: a command that is done does not wait for it.
        threading.Thread(target=ask, name="hurried", daemon=True).start()
        try:
            result = came.get(timeout=left)
        except Empty:
            self._until = self._clock.monotonic()
            raise PodError(f"the provider did not answer within {left:.0f} s") from None
        if isinstance(result, BaseException):
            raise result
        return result
