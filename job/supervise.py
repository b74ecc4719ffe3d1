"""Runs any command as a child that is drained, stopped and never left behind. Knows processes, not training.

Both pipes are read as bytes by a thread each, decoded incrementally, and cut into lines at `\\n` and at
`\\r`, by which progress bars rewrite themselves. The child leads a session of its own under `job/leash.py`.
"""

import codecs
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from job.contract.manifest import POD_ID_VARIABLE
from job.trainers.base import Command

LINE_LENGTH = 65_536
"""Characters after which output without any line end is cut."""
POLL_SECONDS = 0.1
DRAIN_SECONDS = 5
"""For the last output after the whole group is dead."""
_LEASH = Path(__file__).with_name("leash.py")
_INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE",
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF",
    # No secret: a provider of local pods finds every process of a pod by it.
    POD_ID_VARIABLE,
)  # fmt: skip
_INHERITED_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_")


@dataclass(frozen=True)
class Line:
    """A line of output without its end. `rewritten`: it ended in a carriage return alone."""

    text: str
    rewritten: bool


@dataclass(frozen=True)
class Exit:
    """How a child ended. `code` is negative when a signal ended it."""

    code: int


class LineSplitter:
    """Bytes in, lines out, whatever the borders between the pieces. Empty lines are dropped."""

    def __init__(self, limit: int = LINE_LENGTH) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._limit = limit
        self._rest = ""

    def feed(self, data: bytes, *, final: bool = False) -> Iterator[Line]:
        """Take a piece of output; with `final` the last one, whose unfinished line counts too."""
        text = self._rest + self._decode(data, final)
        start = 0
        for index, character in enumerate(text):
            if character in "\r\n":
                # Whether a \n follows is unknown at a piece's end: then the \r alone counts, and the \n ends
                # nothing.
                if index > start:
                    followed = text[index + 1 : index + 2]
                    yield Line(text[start:index], character == "\r" and followed != "\n")
                start = index + 1
            elif index - start >= self._limit:
                yield Line(text[start:index], False)
                start = index
        self._rest = text[start:]
        if final and self._rest:
            yield Line(self._rest, False)
            self._rest = ""


class Children:
    """The process groups that run now, so that the watchdog can end them from its own thread."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._lock = threading.Lock()
        self.unlisted = threading.Lock()
        """Held while a child runs that is not remembered: right after its start, and while it is waited for.
        Apart from the other lock, for both may take long, and the watchdog waits for neither."""

    def add(self, group: int) -> None:
        """Remember a running group."""
        with self._lock:
            self._groups.add(group)

    def remove(self, group: int) -> None:
        """Forget a group: it must not be signalled once its number may be somebody else's."""
        with self._lock:
            self._groups.discard(group)

    def kill(self) -> None:
        """SIGKILL every process of every group."""
        with self._lock:
            for group in self._groups:
                _signal_group(group, signal.SIGKILL)

    def reap_orphans(self) -> None:
        """Let go of ended processes that are not ours: PID 1 inherits those whose parents are gone.

        Does nothing while one of ours has ended and is not yet waited for.
        """
        if not hasattr(os, "waitid") or not self.unlisted.acquire(blocking=False):
            return
        try:
            while (ended := _next_ended()) is not None and ended not in self._groups:
                os.waitpid(ended, os.WNOHANG)
        finally:
            self.unlisted.release()


def minimal_environment(parent: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """Return what a child needs to run, and nothing that is secret: no URL, no key of any provider."""
    kept = {
        name: value
        for name, value in parent.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    return {"LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **kept, **added}


def run(
    command: Command,
    *,
    on_line: Callable[[Line], None],
    tick: Callable[[], None],
    grace: Callable[[], float],
    children: Children,
) -> Exit:
    """Run a command to its end and hand every line of its output to `on_line`.

    `tick` is called several times a second. What either of them raises stops the child (SIGTERM, `grace()`
    seconds, SIGKILL to the whole group), its last lines are still handed over, and then the error is raised.
    """
    with children.unlisted:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LEASH), *command.argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=minimal_environment(os.environ, command.environment),
            cwd=command.cwd,
            start_new_session=True,
        )
        children.add(child.pid)
    lines: queue.Queue[Line] = queue.Queue(maxsize=10_000)
    assert child.stdin and child.stdout and child.stderr
    readers = [
        threading.Thread(target=_drain, args=(pipe, lines), name="output", daemon=True)
        for pipe in (child.stdout, child.stderr)
    ]
    for reader in readers:
        reader.start()
    problem: Exception | None = None
    kill_at: float | None = None
    try:
        while not _has_ended(child):
            try:
                _hand_over(lines, on_line)
                if problem is None:
                    tick()
            except Exception as error:  # noqa: BLE001 - whatever it is, the child is stopped before it goes on up
                if problem is None:
                    problem, kill_at = error, time.monotonic() + grace()
                    _signal_group(child.pid, signal.SIGTERM)
            if kill_at is not None and time.monotonic() >= kill_at:
                _signal_group(child.pid, signal.SIGKILL)
    finally:
        # Before the leader is reaped its number is nobody else's: workers it left behind are killed now.
        _signal_group(child.pid, signal.SIGKILL)
        with children.unlisted:
            children.remove(child.pid)
            code = child.wait()
        child.stdin.close()
    drained_by = time.monotonic() + DRAIN_SECONDS
    while not lines.empty() or (any(r.is_alive() for r in readers) and time.monotonic() < drained_by):
        try:
            _hand_over(lines, on_line)
        except Exception as error:  # noqa: BLE001
            problem = problem or error
    if problem is not None:
        raise problem
    return Exit(code)


def _hand_over(lines: "queue.Queue[Line]", on_line: Callable[[Line], None]) -> None:
    """Wait shortly for a line, then hand over all there are, so that a chatty child cannot outrun
    the ticks.
    """
    with suppress(queue.Empty):
        on_line(lines.get(timeout=POLL_SECONDS))
        for _ in range(1000):
            on_line(lines.get_nowait())


def _drain(pipe: IO[bytes], lines: "queue.Queue[Line]") -> None:
    splitter = LineSplitter()
    with pipe:
        while data := os.read(pipe.fileno(), 65_536):
            for line in splitter.feed(data):
                lines.put(line)
    for line in splitter.feed(b"", final=True):
        lines.put(line)


def _next_ended() -> int | None:
    """Return the number of a child that has ended and is not waited for, None where there is none."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return ended.si_pid if ended is not None else None


def _has_ended(child: "subprocess.Popen[bytes]") -> bool:
    """Whether the child has ended; where the system can tell without reaping, its number stays its own."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return child.poll() is not None
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
