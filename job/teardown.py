"""The pod ends itself, or stays and goes on asking for it: PID 1 never exits before it is killed.

RunPod starts a container whose main process has ended again, and bills it. So nothing that happens here is a
reason to stop: no key, refusals, odd answers, hanging connections, a full disk, no stderr. Knows the provider
and how to wait.
"""

import itertools
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NoReturn

from job.provider import Api, Provider

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
"""Between two rounds, and after an acknowledgement, which is not yet the end."""
AFTER_ERROR_SECONDS = 5.0
LINES_MAX = 100
"""Kept while nobody empties stderr."""


class Teardown:
    """Asks for the end of this pod. `say` must neither raise nor wait."""

    def __init__(
        self,
        provider: Provider,
        *,
        say: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.say = say or Voice()
        self.provider = provider
        self._sleep = sleep
        self._begun = threading.Lock()
        self._told: dict[Api, str] = {}

    def end(self) -> NoReturn:
        """Ask until this process is killed. Of several threads that come here the first asks."""
        first = self._begun.acquire(blocking=False)
        while True:
            with suppress(BaseException):
                for seconds in self.asking() if first else itertools.repeat(LONGEST_WAIT_SECONDS):
                    self._sleep(seconds)
            # Here only after something nobody thought of; a moment, so that it is not asked in a hot loop.
            with suppress(BaseException):
                time.sleep(AFTER_ERROR_SECONDS)

    def asking(self) -> Iterator[float]:
        """Ask by one API after the other, for ever; yield how many seconds to wait before the next time.

        An acknowledgement ends nothing: while this code runs, the pod is there. Where no answer came at all,
        the next round goes the way that the environment tells (proxies, certificates), and back again.
        """
        if not self.provider.has_key:
            self.say("this pod has no key of its own: it cannot end itself, and waits for others to do it")
            yield from itertools.repeat(LONGEST_WAIT_SECONDS)
        wait, trust_env = FIRST_WAIT_SECONDS, False
        while True:
            answered = False
            for api in Api:
                said = self.provider.terminate(api, trust_env=trust_env)
                answered = answered or said.answered
                self._tell(api, f"{'acknowledged' if said.yes else 'not ended'}: {said.words}")
                if said.yes:
                    yield _jittered(LONGEST_WAIT_SECONDS)
            yield _jittered(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            trust_env = not trust_env and not answered

    def _tell(self, api: Api, words: str) -> None:
        """Say what came of it, once while it stays the same."""
        if self._told.get(api) != words:
            self._told[api] = words
            self.say(f"asked RunPod to end this pod ({api}); {words}")


class Voice:
    """Says lines on stderr from a thread of its own: a pipe that nobody empties holds up nothing."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str] = queue.Queue(LINES_MAX)
        with suppress(RuntimeError, MemoryError):
            threading.Thread(target=self._speak, name="voice", daemon=True).start()

    def __call__(self, text: str) -> None:
        """Say a line soon; drop it where too many wait."""
        with suppress(queue.Full, MemoryError):
            self._lines.put_nowait(text)

    def _speak(self) -> None:
        while True:
            with suppress(Exception):
                tell(self._lines.get())


def tell(text: str) -> None:
    """Say a line on stderr, if there is one that takes it."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"retrain job: {text}\n")
        sys.stderr.flush()


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1)  # noqa: S311
