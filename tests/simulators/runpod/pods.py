"""What runs in a pod: nothing, a script, or the real job as a process group of this machine."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.simulators.runpod.pod import Container, Pod

ROOT = Path(__file__).parents[3]
KILLED = 128 + signal.SIGKILL
ENDED = 128 + signal.SIGTERM
PASSED_ON = ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "VIRTUAL_ENV")
"""What stands for the image's own environment."""
KEY_VARIABLE = "RUNPOD_API_KEY"


def environment(pod: Pod) -> dict[str, str]:
    """Return what a container sees: what was asked for, and over it what RunPod injects.

    Documented are the id, the key, the data center and the counts; the others are seen in practice.
    """
    injected = {
        "RUNPOD_POD_ID": pod.pod_id,
        KEY_VARIABLE: pod.key,
        "RUNPOD_DC_ID": pod.data_center,
        "RUNPOD_GPU_COUNT": str(pod.count if pod.gpu_id else 0),
        "RUNPOD_CPU_COUNT": str(8 * pod.count if pod.gpu_id else pod.count),
        "RUNPOD_MEM_GB": str(50 * pod.count if pod.gpu_id else 2 * pod.count),
        "RUNPOD_POD_HOSTNAME": f"{pod.pod_id}-64410000",
        "RUNPOD_PUBLIC_IP": "127.0.0.1",
    }
    if pod.gpu_id:
        injected["RUNPOD_GPU_NAME"] = pod.gpu_id.replace(" ", "+")
    return {**pod.environment, **injected}


class Inert:
    """A container that does nothing until it is asked to end."""

    def start(self, container: Container) -> float | None:
        """Come up."""
        return None

    def poll(self) -> int | None:
        """Go on."""
        return None

    def ask_to_end(self) -> int | None:
        """End at once."""
        return ENDED

    def kill(self) -> None:
        """End at once."""


class Scripted:
    """A container whose main process is a function, called again and again until it returns an exit code.

    `step` gets the container of the present life and may do anything, also call the simulator. It is called
    whenever time has passed, once at each `advance` or tick.
    """

    def __init__(
        self,
        step: Callable[[Container], int | None] = lambda container: None,
        *,
        exits_after_seconds: float | None = None,
        on_sigterm: Callable[[], int | None] = lambda: ENDED,
    ) -> None:
        self.lives: list[Container] = []
        self._step = step
        self._exits_after = exits_after_seconds
        self._on_sigterm = on_sigterm
        self._code: int | None = None

    def start(self, container: Container) -> float | None:
        """Come up."""
        self.lives.append(container)
        self._code = None
        return self._exits_after

    def poll(self) -> int | None:
        """Do the next step."""
        if self._code is None and self.lives:
            self._code = self._step(self.lives[-1])
        return self._code

    def ask_to_end(self) -> int | None:
        """Ask the script; None means that it goes on, until its step returns a code or it is killed."""
        return self._on_sigterm()

    def kill(self) -> None:
        """No further step is done in this life."""
        self._code = KILLED


class ProcessPod:
    """A container that is processes of this machine, the job by default; needs the real clock.

    Each life begins with an empty disk. A life's processes are known by the pod's own key in their
    environment, so that none escapes by a session of its own.
    """

    def __init__(
        self,
        *,
        command: Sequence[str] = (sys.executable, "-m", "job"),
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self._command = list(command)
        self._extra = dict(extra or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._disk: Path | None = None
        self._key = ""

    def start(self, container: Container) -> float | None:
        """Start the main process; its output becomes the container's log."""
        self._disk = Path(tempfile.mkdtemp(prefix="runpod-disk-"))
        own = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        image = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "HOME": str(self._disk)}
        image["TMPDIR"] = str(self._disk)
        self._key = container.environment[KEY_VARIABLE]
        self._process = subprocess.Popen(
            self._command,
            cwd=self._disk,
            env={**own, **image, **self._extra, **container.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=_read, args=(self._process, container), daemon=True).start()
        return None

    def poll(self) -> int | None:
        """Return the main process's exit code."""
        process = self._process
        return None if process is None else process.poll()

    def ask_to_end(self) -> int | None:
        """Send SIGTERM to the main process alone, as a container engine does; `poll` tells of its end."""
        if self._process is not None:
            self._process.terminate()
        return None

    def kill(self) -> None:
        """End every process of this life, and wipe the disk."""
        process, self._process = self._process, None
        if process is None:
            return
        kill_holders(self._key)
        if process.poll() is None:
            process.kill()
        process.wait()
        if self._disk is not None:
            shutil.rmtree(self._disk, ignore_errors=True)


def kill_holders(key: str) -> None:
    """Kill every process of this machine that has this very key in its environment, but this one."""
    # Twice: a process may have started another one meanwhile.
    for _ in range(2):
        for child in _holders(key):
            with suppress(psutil.Error):
                child.kill()


def _holders(key: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(KEY_VARIABLE) == key:
                yield process


def _read(process: "subprocess.Popen[bytes]", container: Container) -> None:
    assert process.stdout is not None
    with process.stdout as output, suppress(ValueError):
        for line in output:
            container.say(line.decode(errors="replace").rstrip("\n"))
