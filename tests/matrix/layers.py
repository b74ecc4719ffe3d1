"""The four layers that end pods, and how those that are processes of their own share the fake time."""

import threading
from collections.abc import Callable
from enum import StrEnum

from launcher.ports import Clock
from tests.crash.launchers import Killed


class Layer(StrEnum):
    """Who ends a pod."""

    LOOP = "loop"
    """Launchers: whoever comes back to the run."""
    JOB = "job"
    """The pod itself, with the key that RunPod gives it."""
    WATCHDOG = "watchdog"
    """The process that stays beside a run when its launcher is gone."""
    REAP = "reap"
    """`retrain reap --yes` by cron, anywhere."""


ALL = frozenset(Layer)
FROM_OUTSIDE = frozenset({Layer.LOOP, Layer.WATCHDOG, Layer.REAP})
"""Those with the account's key."""


class Beside:
    """A process beside the launchers: real code that sleeps on this Clock, and works when the world says so.

    It has a thread, and never runs at the same time as the world.
    """

    def __init__(self, name: str, monotonic: Callable[[], float], work: Callable[[Clock], object]) -> None:
        self.monotonic = monotonic
        self.over = False
        self.failed: BaseException | None = None
        self._work = work
        self._wakes_at = monotonic()
        self._closing = False
        self._may_work, self._sleeps = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Let it work until it sleeps, if it is not asleep for longer."""
        if self.over or self.monotonic() < self._wakes_at:
            return
        self._may_work.release()
        self._sleeps.acquire()
        if self.failed is not None:
            raise self.failed

    def sleep(self, seconds: float) -> None:
        """Hand over to the world. Raises Killed when nobody needs it any more."""
        self._wakes_at = self.monotonic() + seconds
        self._sleeps.release()
        self._may_work.acquire()
        if self._closing:
            raise Killed

    def close(self) -> None:
        """End it, wherever it is."""
        self._closing = True
        self._may_work.release()
        self._thread.join()

    def _run(self) -> None:
        self._may_work.acquire()
        try:
            if not self._closing:
                self._work(self)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where the world waits
            self.failed = error
        self.over = True
        self._sleeps.release()
