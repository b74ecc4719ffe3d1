"""Which process on this machine: a number alone does not say, because numbers are used again.

Knows psutil and the proc file system; nothing of the project.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_START_TICKS_FIELD = 19
"""Of /proc/<pid>/stat, counted from the state, the first field after the name: see proc(5), field 22."""


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, told apart from a later one of the same number and from one before a reboot."""

    pid: int
    started: float
    """When it started. Only equality means something: clock ticks since boot on Linux, else epoch seconds."""
    boot_id: str
    pid_namespace: int
    """In which numbering of processes `pid` counts: each container has its own. 0 where there is but one."""

    @classmethod
    def current(cls) -> Self:
        """Return the identity of the process that asks."""
        return cls.of(psutil.Process().pid)

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return the identity of a process that exists. Raises ProcessLookupError when none does."""
        started = _started(pid)
        if started is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid=pid, started=started, boot_id=boot_id(), pid_namespace=pid_namespace())

    def could_be_seen_here(self) -> bool:
        """Tell whether this process, if it runs, is to be seen from here: same boot, same numbering."""
        return (self.boot_id, self.pid_namespace) == (boot_id(), pid_namespace())

    def is_alive(self) -> bool:
        """Tell whether this very process may still run. One that ended but was not waited for does not.

        One of another container on this boot may: that it is not seen from here proves nothing.
        """
        if self.boot_id != boot_id():
            return False
        if self.pid_namespace != pid_namespace():
            return True
        if _started(self.pid) != self.started:
            return False
        try:
            return psutil.Process(self.pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.NoSuchProcess:
            return False

    def to_json(self) -> dict[str, Any]:
        """Return the identity as JSON fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        return cls(
            pid=int(fields["pid"]),
            started=float(fields["started"]),
            boot_id=str(fields["boot_id"]),
            pid_namespace=int(fields["pid_namespace"]),
        )


def boot_id() -> str:
    """Return what changes with every boot of this machine and with nothing else."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def pid_namespace() -> int:
    """Return which numbering of processes this process lives in, 0 on a system that has but one."""
    try:
        return _PID_NAMESPACE.stat().st_ino
    except OSError:
        return 0


def _started(pid: int) -> float | None:
    try:
        # psutil derives an epoch time from the wall clock, which steps when the clock is set; ticks do not.
        stat = Path(f"/proc/{pid}/stat").read_text()
        return float(stat.rpartition(")")[2].split()[_START_TICKS_FIELD])
    except (OSError, IndexError):
        pass
    try:
        return None if psutil.LINUX else psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
