"""One pass over every open run, several side by side: the provider is asked once for all of them.

Knows the ports and the loop. A pass waits for the store more than it works, so a few lanes are enough; they
also bound the memory, since one lane holds one record, its events and the ranges of one file at a time.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from launcher.actions import World
from launcher.journal import Journal
from launcher.kept_time import KeptTime
from launcher.loop import Loop
from launcher.model import RunRecord
from launcher.ports import Clock, Notifier
from launcher.roster import Roster

AT_ONCE = 4
"""Runs that are looked after side by side. Each may have 40 MiB of a checkpoint on its way home."""
T = TypeVar("T")


@dataclass(frozen=True)
class Looked(Generic[T]):
    """How the pass over one run went: `told` is what was made of its record, else there was an `error`."""

    run_id: str
    told: T | None = None
    error: Exception | None = None


def go_round(world: World, journal: Journal, tell: Callable[[RunRecord], T]) -> Iterator[Looked[T]]:
    """Make one pass over each run that was open when it began, and yield how it went, the oldest run first.

    `tell` makes of a record what is needed of it, so that a thousand of them need not be kept. What goes
    wrong with one run, even a bug, is in its `Looked` and touches no other. Closing this generator, or an
    interrupt of it, ends the passes that are under way at their next step. Raises StorageError when the store
    does not list the runs.
    """
    time = KeptTime(world.clock)
    began = world.store.now()
    time.hear(began)
    roster = Roster(world.pods, began)
    called_off = threading.Event()
    clock = _RoundClock(world.clock, called_off)

    def look(run_id: str) -> Looked[T] | None:
        own = replace(world, clock=clock, notifier=_Named(world.notifier, run_id), pulls_at_once=1)
        try:
            record = Loop(own, journal, time=time).once(run_id, roster)
            if record.closed_at is not None and record.closed_at < began:
                return None
            return Looked(run_id, told=tell(record))
        except Exception as error:  # noqa: BLE001 - one run must not keep the others from being looked after
            return Looked(run_id, error=error)

    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="round")
    try:
        yield from (looked for looked in pool.map(look, journal.run_ids()) if looked is not None)
    finally:
        called_off.set()
        pool.shutdown(cancel_futures=True)


class _Named:
    """Says of which run each line is."""

    def __init__(self, notifier: Notifier, run_id: str) -> None:
        self._notifier = notifier
        self._run_id = run_id

    def say(self, message: str) -> None:
        self._notifier.say(f"run {self._run_id}: {message}")


class _RoundClock:
    """The clock of a round's lanes: who looks at it after the round was called off goes, in order.

    Long transfers look at it every few seconds.
    """

    def __init__(self, clock: Clock, called_off: threading.Event) -> None:
        self._clock = clock
        self._called_off = called_off

    def monotonic(self) -> float:
        if self._called_off.is_set():
            raise KeyboardInterrupt
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        if self._called_off.wait(seconds):
            raise KeyboardInterrupt
