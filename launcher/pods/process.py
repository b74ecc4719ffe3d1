"""Pods that are process groups of this machine: the embedded default.

A pod owns a folder below the workspace. Its processes are known by RETRAIN_POD_ID in their environment, which
survives what loses a process number: a launcher's death, a reboot, a number used again. The first process is
also on record with its number, start time and boot id.
"""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from job.contract.manifest import POD_ID_VARIABLE
from launcher.errors import PodError
from launcher.files import write_atomically
from launcher.machine import ProcessIdentity
from launcher.ports import Offer, Pod, PodSpec, PodState

OFFER = "this machine"
SCRATCH_VARIABLE = "RETRAIN_SCRATCH"
SOURCES = Path(__file__).parents[2]
"""Where the package `job` lies: the pod runs what this launcher came with."""
POD_ID = re.compile(r"local-[0-9a-f]{12}")
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VIRTUAL_ENV")
"""What a pod inherits of the launcher's environment. Never a credential."""
TERM_SECONDS = 5.0
"""From asking a pod's processes to end to killing them."""
KILL_SECONDS = 5.0
"""How long to wait for killed processes before answering `not yet`."""


class ProcessPods:
    """Runs the job as a process group of its own, detached from the launcher."""

    provider = "process"

    def __init__(self, folder: Path, *, price_per_hour: float = 0.0) -> None:
        self._folder = folder.resolve()
        self._price = price_per_hour

    def offers(self) -> Sequence[Offer]:
        """Return this machine, at the price that its owner set."""
        return (Offer(name=OFFER, price_per_hour=self._price),)

    def create(self, spec: PodSpec) -> Pod:
        """Start the job and return at once. Raises PodError when nothing was started."""
        pod_id = f"local-{secrets.token_hex(6)}"
        folder = self._folder / pod_id
        created_at = datetime.now(UTC)
        try:
            (folder / "scratch").mkdir(parents=True)
            self._write(
                folder, {"name": spec.name, "created_at": created_at.isoformat(), "price": self._price}
            )
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(
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
            raise PodError(
                f"the job cannot be started on this machine: {error.strerror}",
                next_step=f"make room in {self._folder} or choose another workspace",
            ) from error
        self._remember(folder, process.pid)
        return self._pod(pod_id, PodState.STARTING)

    def find(self, name: str) -> Sequence[Pod]:
        """Return the existing pods of this name."""
        return [pod for pod in self.list() if pod.name == name]

    def get(self, pod_id: str) -> Pod | None:
        """Return a pod that still has processes, or None."""
        return self._pod(pod_id, PodState.RUNNING) if any(self._processes(pod_id)) else None

    def list(self) -> Sequence[Pod]:
        """Return every pod of this workspace that still has processes."""
        known = {folder.name for folder in self._folder.glob("local-*") if (folder / "pod.json").exists()}
        running = known.intersection(filter(None, map(_pod_id_of, psutil.process_iter())))
        return [self._pod(pod_id, PodState.RUNNING) for pod_id in sorted(running)]

    def terminate(self, pod_id: str) -> bool:
        """End all processes of a pod: ask, then kill. True once none is left; its scratch files go too."""
        if not POD_ID.fullmatch(pod_id):
            raise PodError(f"{pod_id!r} is not the id of a pod of this machine")
        processes = list(self._processes(pod_id))
        _signal(processes, signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=TERM_SECONDS)
        if alive:
            # Asked again: a process may have started another one meanwhile.
            alive = list(self._processes(pod_id))
            _signal(alive, signal.SIGKILL)
            psutil.wait_procs(alive, timeout=KILL_SECONDS)
        if any(self._processes(pod_id)):
            return False
        shutil.rmtree(self._folder / pod_id / "scratch", ignore_errors=True)
        return True

    def logs(self, pod_id: str, *, tail: int = 100) -> Sequence[str]:
        """Return the newest lines of the pod's output."""
        try:
            text = (self._folder / pod_id / "log").read_text(errors="replace")
        except OSError:
            return []
        return text.splitlines()[-tail:]

    def _environment(self, given: Mapping[str, str], pod_id: str, folder: Path) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        ours = {
            POD_ID_VARIABLE: pod_id,
            SCRATCH_VARIABLE: str(folder / "scratch"),
            "PYTHONPATH": str(SOURCES),
            "PYTHONUNBUFFERED": "1",
        }
        return {**inherited, **given, **ours}

    def _processes(self, pod_id: str) -> Iterator[psutil.Process]:
        """Yield the pod's living processes."""
        return (process for process in psutil.process_iter() if _pod_id_of(process) == pod_id)

    def _pod(self, pod_id: str, state: PodState) -> Pod:
        fields = self._read(pod_id)
        return Pod(
            pod_id=pod_id,
            name=str(fields["name"]),
            state=state,
            created_at=datetime.fromisoformat(fields["created_at"]),
            price_per_hour=float(fields["price"]),
        )

    def _remember(self, folder: Path, pid: int) -> None:
        try:
            identity = ProcessIdentity.of(pid).to_json()
        except ProcessLookupError:
            return  # ended at once; its log says why
        self._write(folder, {**self._read(folder.name), "process": identity})

    def _write(self, folder: Path, fields: dict[str, Any]) -> None:
        write_atomically(folder / "pod.json", json.dumps(fields).encode())

    def _read(self, pod_id: str) -> dict[str, Any]:
        try:
            fields: dict[str, Any] = json.loads((self._folder / pod_id / "pod.json").read_bytes())
        except (OSError, ValueError) as error:
            raise PodError(f"the description of pod {pod_id} cannot be read: {error}") from error
        return fields


def _pod_id_of(process: psutil.Process) -> str | None:
    """Return which pod a living process belongs to, None for a stranger, a zombie or somebody else's."""
    try:
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return process.environ().get(POD_ID_VARIABLE)
    except (psutil.Error, OSError):
        return None


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue
