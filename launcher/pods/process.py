"""Pods that are process groups of this machine: the embedded default.

A pod's processes are known by RETRAIN_POD_ID in their environment. That survives what a process number does
not: a launcher's death, a deleted folder, a number used again after a reboot. A pod's id is its name and a
random end, so that nothing has to be read back from a file to know what a process belongs to.
"""

import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from job.contract.manifest import POD_ID_VARIABLE, SCRATCH_VARIABLE
from launcher.errors import CreateRefused, PodError
from launcher.ports import Offer, Pod, PodSpec, PodState

OFFER = "this machine"
SOURCES = Path(__file__).parents[2]
"""Where the package `job` lies: the pod runs what this launcher came with."""
POD_ID = re.compile(r"(retrain-[a-z0-9-]+)\.[0-9a-f]{12}")
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VIRTUAL_ENV")
"""What a pod inherits of the launcher's environment. Never a credential."""
TERM_SECONDS = 5.0
"""From asking a pod's processes to end to killing them."""
KILL_SECONDS = 5.0
"""How long to wait for killed processes before answering `not yet`."""


def machine_id() -> str:
    """Return what tells this machine and user from others, whose pods cannot be seen or ended from here."""
    try:
        identity = Path("/etc/machine-id").read_text().strip()
    except OSError:
        identity = f"{uuid.getnode():012x}"
    return hashlib.sha256(f"{identity} {socket.gethostname()} {os.getuid()}".encode()).hexdigest()[:12]


class ProcessPods:
    """Runs the job as a process group of its own, detached from the launcher."""

    provider = "process"

    def __init__(self, folder: Path, *, place: str, price_per_hour: float = 0.0) -> None:
        self._folder = folder.resolve()
        self._price = price_per_hour
        self.place = place

    def offers(self) -> Sequence[Offer]:
        """Return this machine, at the price that its owner set."""
        return (Offer(name=OFFER, price_per_hour=self._price),)

    def create(self, spec: PodSpec) -> Pod:
        """Start the job and return at once. Raises CreateRefused when nothing was started."""
        pod_id = f"{spec.name}.{secrets.token_hex(6)}"
        if not POD_ID.fullmatch(pod_id):
            raise CreateRefused(f"{spec.name!r} is not the name of a pod")
        folder = self._folder / pod_id
        try:
            (folder / "scratch").mkdir(parents=True)
            with (folder / "log").open("wb") as log:
                subprocess.Popen(
                    [sys.executable, "-m", "job"],
                    cwd=folder,
                    env=self._environment(spec.environment, pod_id, folder),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise CreateRefused(
                f"the job cannot be started on this machine: {error.strerror}",
                next_step=f"make room in {self._folder} or choose another workspace",
            ) from error
        return Pod(pod_id, spec.name, PodState.STARTING, datetime.now(UTC), self._price)

    def find(self, name: str) -> Sequence[Pod]:
        """Return the existing pods of this name."""
        return [pod for pod in self.list() if pod.name == name]

    def get(self, pod_id: str) -> Pod | None:
        """Return a pod that still has processes, or None."""
        return next((pod for pod in self.list() if pod.pod_id == pod_id), None)

    def list(self) -> Sequence[Pod]:
        """Return every pod of this user on this machine that still has processes."""
        found: dict[str, Pod] = {}
        for process in psutil.process_iter():
            named = POD_ID.fullmatch(_pod_id_of(process) or "")
            if named is None:
                continue
            started = _started(process)
            known = found.get(named[0])
            if known is None or started < known.created_at:
                found[named[0]] = Pod(named[0], named[1], PodState.RUNNING, started, self._price)
        return [found[pod_id] for pod_id in sorted(found)]

    def terminate(self, pod_id: str) -> bool:
        """End all processes of a pod: ask, then kill. True once none is left; its scratch files go too."""
        if not POD_ID.fullmatch(pod_id):
            raise PodError(f"{pod_id!r} is not the id of a pod of this machine")
        processes = list(_processes(pod_id))
        _signal(processes, signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=TERM_SECONDS)
        if alive:
            # Asked again: a process may have started another one meanwhile.
            alive = list(_processes(pod_id))
            _signal(alive, signal.SIGKILL)
            psutil.wait_procs(alive, timeout=KILL_SECONDS)
        if any(_processes(pod_id)):
            return False
        shutil.rmtree(self._folder / pod_id / "scratch", ignore_errors=True)
        return True

    def now(self) -> datetime:
        """Return this machine's time: it is the provider."""
        return datetime.now(UTC)

    def logs(self, pod_id: str, *, tail: int = 100) -> Sequence[str]:
        """Return the newest lines of the pod's output."""
        try:
            text = (self._folder / pod_id / "log").read_text(errors="replace")
        except OSError:
            return []
        return text.splitlines()[-tail:]

    def billed(self, pod_id: str, *, since: datetime, until: datetime) -> float | None:  # noqa: ARG002
        """Return None: nobody sends a bill for this machine."""
        return None

    def boot_log(self, pod_id: str) -> str:  # noqa: ARG002
        """Return nothing: a process is there at once."""
        return ""

    def _environment(self, given: Mapping[str, str], pod_id: str, folder: Path) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        ours = {
            POD_ID_VARIABLE: pod_id,
            SCRATCH_VARIABLE: str(folder / "scratch"),
            "PYTHONPATH": str(SOURCES),
            "PYTHONUNBUFFERED": "1",
        }
        return {**inherited, **given, **ours}


def _processes(pod_id: str) -> Iterator[psutil.Process]:
    """Yield the pod's living processes."""
    return (process for process in psutil.process_iter() if _pod_id_of(process) == pod_id)


def _pod_id_of(process: psutil.Process) -> str | None:
    """Return which pod a living process belongs to, None for a stranger, a zombie or somebody else's."""
    try:
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return process.environ().get(POD_ID_VARIABLE)
    except (psutil.Error, OSError):
        return None


def _started(process: psutil.Process) -> datetime:
    try:
        return datetime.fromtimestamp(process.create_time(), UTC)
    except psutil.Error:
        return datetime.now(UTC)


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)
