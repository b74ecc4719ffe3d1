"""What may go wrong in a rehearsed night, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.simulators.runpod import Fault, Operation, Simulator, Trouble

LAG_SECONDS = 5.0


@dataclass(frozen=True)
class Mishap:
    """Either set before the night begins, or done to the pod that trains, after it kept a resume state."""

    words: str
    answers: tuple[Fault, ...] = ()
    """Answers that go wrong; each must have, for the night to count."""
    provider: Mapping[str, float] = field(default_factory=dict)
    """Conditions of the provider, by name."""
    strike: Callable[[Simulator, str], None] | None = None
    """Done to a pod, by its id."""


def _answer(trouble: Trouble, *operations: Operation, after_effect: bool = False, times: int = 1) -> Fault:
    return Fault(trouble, frozenset(operations), after_effect=after_effect, times=times, by_pods=False)


def mishap(name: str) -> Mishap:
    """Return a new mishap; its faults count what they struck. Raises KeyError."""
    return MISHAPS[name]()


MISHAPS: Mapping[str, Callable[[], Mishap]] = {
    "host-kill": lambda: Mishap(
        "the host of the pod fails, and the pod is gone", strike=Simulator.host_kills
    ),
    "host-restart": lambda: Mishap(
        "the host of the pod restarts, and its disk is empty", strike=Simulator.host_restarts
    ),
    "create-timeout": lambda: Mishap(
        "a pod is made, and nobody is told",
        answers=(_answer(Trouble.TIMEOUT, Operation.CREATE, after_effect=True),),
    ),
    "no-capacity": lambda: Mishap(
        "the first GPU wanted is not to be had", answers=(_answer(Trouble.NO_CAPACITY, Operation.CREATE),)
    ),
    "terminate-loses-answer": lambda: Mishap(
        "a pod's end is accepted, and nobody is told",
        answers=(_answer(Trouble.DISCONNECT, Operation.DELETE, after_effect=True),),
    ),
    "list-lag": lambda: Mishap(
        f"new pods are missing from the list for {LAG_SECONDS:.0f} s",
        provider={"list_lag_seconds": LAG_SECONDS, "get_lag_seconds": LAG_SECONDS},
    ),
    "bad-gateway": lambda: Mishap(
        "some lists of pods are a page of HTML",
        answers=(_answer(Trouble.BAD_GATEWAY, Operation.LIST, times=6),),
    ),
}
