"""What the provider shows during one pass: its pods and offers, asked for once for all runs of the pass.

Knows the ports. A list gets as old as its pass, and proves no more than when it was asked for: `at` goes with
what is seen, and `launcher.judgement` decides by it whether absence means anything.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Generic, TypeVar

from launcher.errors import PodError
from launcher.model import Attempt
from launcher.ports import Offer, Pod, Pods

T = TypeVar("T")


class Roster:
    """One pass's view of the provider. Safe to share between threads. Nothing is asked for before its use."""

    def __init__(self, pods: Pods, at: datetime) -> None:
        """`at` is a time by the store's clock that is past already: no list of this pass is older."""
        self.at = at
        self._pods = pods
        self._listing = _Once(lambda: _Listing(pods.list()))
        self._offers = _Once(pods.offers)

    def shown(self, attempt: Attempt) -> tuple[Pod, ...]:
        """Return the listed pods of an attempt's name or recorded ids. Raises PodError."""
        listing = self._listing()
        found = {pod.pod_id: pod for pod in listing.named.get(attempt.pod_name, ())}
        found |= {pod_id: listing.known[pod_id] for pod_id in attempt.pod_ids if pod_id in listing.known}
        return tuple(found.values())

    def pods_of(self, attempt: Attempt) -> tuple[Pod, ...]:
        """Return every existing pod of an attempt. Raises PodError.

        One whose id is on record and that is not listed is asked for by itself: it may be younger than the
        list. Those of an attempt that was confirmed gone are not; they may only show up again.
        """
        found = {pod.pod_id: pod for pod in self.shown(attempt)}
        if attempt.gone_at is None:
            for pod_id in attempt.pod_ids:
                if pod_id not in found and (pod := self._pods.get(pod_id)) is not None:
                    found[pod_id] = pod
        return tuple(found.values())

    def claimed(self, attempt: Attempt, pod_id: str) -> tuple[Pod, ...]:
        """Return the pod of this id where it exists and carries the attempt's name. Raises PodError.

        A claim is a pod's own word, and may name any pod: what it names is taken for ours by its name alone.
        """
        pod = self._pods.get(pod_id)
        return (pod,) if pod is not None and pod.name == attempt.pod_name else ()

    def offers(self) -> Sequence[Offer]:
        """Return what can be rented. Raises PodError."""
        return self._offers()


class _Listing:
    """A list of pods, by name and by id: a thousand runs look theirs up in it."""

    def __init__(self, pods: Sequence[Pod]) -> None:
        self.known = {pod.pod_id: pod for pod in pods}
        self.named: dict[str, list[Pod]] = {}
        for pod in pods:
            self.named.setdefault(pod.name, []).append(pod)


class _Once(Generic[T]):
    """A question that is asked once; a failure is an answer, too."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answer: T | PodError | None = None

    def __call__(self) -> T:
        with self._lock:
            if self._answer is None:
                try:
                    self._answer = self._ask()
                except PodError as error:
                    self._answer = error
            answer = self._answer
        if isinstance(answer, PodError):
            raise PodError(str(answer), next_step=answer.next_step) from answer
        return answer
