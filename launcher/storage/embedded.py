"""The S3 server of whoever has no bucket: one SeaweedFS for each workspace, on loopback.

It outlives the launcher that started it, keeps its keys and ports over restarts (presigned URLs of running
pods carry host and port), is started by one launcher at a time and never stopped under another that uses it.
Knows weed, boto3 and this machine.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from botocore.exceptions import BotoCoreError, ClientError

from launcher.errors import LocalDiskError, StorageError
from launcher.locking import FileLock
from launcher.machine import ProcessIdentity
from launcher.storage import weed
from launcher.storage.s3_config import S3Config
from launcher.storage.s3_errors import code_of
from launcher.storage.server_state import ServerState
from launcher.storage.weed import HOST

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "retrain"
MARKER = ".ready"
"""An object that is there from the first start on: when it can be read, so can the others."""
START_SECONDS = 30.0
STOP_SECONDS = 40.0
"""weed takes 2 to 30 s to end after SIGTERM."""
LOCK_SECONDS = START_SECONDS + STOP_SECONDS
POLL_SECONDS = 0.1
ANSWER_SECONDS = 5.0
"""For one request while it starts."""
FREE_BYTES_MIN = 64 << 20
"""Above what weed keeps free."""
OUTPUT_BYTES_MAX = 8 << 20
LOGS_KEPT = 4
TAIL_LINES = 15
TAIL_BYTES = 16 << 10
_ERROR_LINE = re.compile(r"[EF]\d{4} |panic: |flag provided")
"""glog's errors and fatal errors, Go's panics, and a flag of another version of weed."""


class EmbeddedServer:
    """The S3 server of one workspace, in `folder` (`.retrain/store`); `say` gets what people should know."""

    def __init__(self, folder: Path, *, say: Callable[[str], None] = lambda _: None) -> None:
        # One spelling of the path: the process is recognised by it.
        self.folder = folder.resolve()
        self._say = say
        self._data = self.folder / "data"
        self._logs = self.folder / "logs"
        self._output = self._logs / "output.txt"
        """What weed says outside its log: its banner, and why it ended."""
        self._file = self.folder / "server.json"
        self._use = FileLock(self.folder / "users.lock")
        """Shared by everyone who uses the server; had alone by who stops it."""
        self._start = FileLock(self.folder / "start.lock")

    def connect(self) -> S3Config:
        """Return how to reach the server, which is started when it does not run, and keep it until `close()`.

        Raises StorageError with the last lines of its log, or LocalDiskError.
        """
        try:
            with self._keeping():
                # Before the look whether it runs: from here on nobody stops it.
                if not self._use.is_held():
                    self._take(self._use, shared=True)
                return _config(self._ready())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others stop the server; it goes on. Whoever is killed does that, too."""
        self._use.release()

    def was_started(self) -> bool:
        """Tell whether it ever ran here: without that there is nothing in it."""
        return self._data.exists()

    def is_running(self) -> bool:
        """Tell whether the server's process lives."""
        state = ServerState.read(self._file)
        return (state is not None and _is_alive(state)) or bool(weed.running(self._data))

    def stop(self, *, needed: Callable[[], bool] = lambda: False) -> bool:
        """Close, then end the server and wait for it, unless somebody uses it or it is `needed`.

        `needed` is asked when nobody can begin to use the server any more, so that its answer holds. Returns
        whether the server is at rest. Data, keys and ports stay.
        """
        try:
            with self._keeping():
                # Who cannot have it alone is not the last to leave: that one stops the server.
                if not self._use.take() or needed():
                    return False
                with self._starting():
                    state = ServerState.read(self._file)
                    for pid in weed.running(self._data):
                        _end(pid)
                    if state is not None:
                        replace(state, process=None, ready=False).write(self._file)
                return True
        finally:
            self.close()

    def _ready(self) -> ServerState:
        """Return the state of a server that answers, started if need be."""
        state = ServerState.read(self._file)
        self._trim_output()
        if state is None or not state.ready or not _is_alive(state):
            with self._starting():
                return self._started()
        return state

    def _started(self) -> ServerState:
        state = ServerState.read(self._file)
        pids = weed.running(self._data)
        if state is None:
            # Whoever runs here serves a folder that was deleted under it, or has keys that nobody knows.
            for pid in pids:
                _end(pid)
            state, pids = ServerState.fresh(), ()
        if not pids:
            state = self._launch(state)
        elif state.process is None or state.process.pid not in pids:
            # Its launcher died between starting it and writing it down.
            state = replace(state, process=ProcessIdentity.of(pids[0]), ready=False)
        if not state.ready:
            self._wait(state)
            state = replace(state, ready=True)
        state.write(self._file)
        return state

    def _launch(self, state: ServerState) -> ServerState:
        self._check_disk()
        binary = weed.binary()
        taken = state.ports.taken()
        if taken:
            ports = state.ports.without(taken)
            if state.ports.s3 != ports.s3:
                self._say(
                    f"Port {state.ports.s3} of the local store is taken by another program; it moves to port "
                    f"{ports.s3}. Pods that are still running cannot reach it there."
                )
            state = replace(state, ports=ports)
        state = replace(state, process=None, ready=False)
        # Keys and ports first: whoever finds the process without a record of it can still use it.
        state.write(self._file)
        self._data.mkdir(mode=0o700, exist_ok=True)
        self._logs.mkdir(mode=0o700, exist_ok=True)
        self._drop_old_logs()
        if self._output.exists():
            self._output.replace(self._output.with_name("output.old.txt"))
        with self._output.open("ab") as output:
            child = subprocess.Popen(
                weed.arguments(binary, self._data, self._logs, state.ports),
                stdin=subprocess.DEVNULL,
                # A file, not a pipe: nobody is left to drain one when the launcher is gone.
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=weed.environment(self.folder, access_key=state.access_key, secret_key=state.secret_key),
                start_new_session=True,
            )
        state = replace(state, process=ProcessIdentity.of(child.pid))
        state.write(self._file)
        return state

    def _wait(self, state: ServerState) -> None:
        """Wait until the server has its bucket and gives back what was stored in it before."""
        client = _config(state).client(attempts=1, read_seconds=ANSWER_SECONDS)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not _is_alive(state):
                raise StorageError(
                    f"The local S3 server ended as it started.\n{self._tail()}", next_step=self._advice()
                )
            with suppress(BotoCoreError, ClientError):
                _make_ready(client)
                return
            time.sleep(POLL_SECONDS)
        raise StorageError(
            f"The local S3 server did not answer within {START_SECONDS:.0f} s.\n{self._tail()}",
            next_step=self._advice(),
        )

    def _check_disk(self) -> None:
        disk = shutil.disk_usage(self.folder)
        needed = int(disk.total * weed.FREE_SHARE_MIN) + FREE_BYTES_MIN
        if disk.free < needed:
            raise LocalDiskError(
                f"The disk of {self.folder} has {disk.free >> 20} MiB free; the local store needs "
                f"{needed >> 20} MiB.",
                next_step="Make room, or configure a bucket in retrain.toml.",
            )

    def _trim_output(self) -> None:
        """Keep the end of what weed said when it has become long. It appends, so it goes on behind that."""
        with suppress(OSError):
            if self._output.stat().st_size > OUTPUT_BYTES_MAX:
                end = self._output.read_bytes()[-TAIL_BYTES:]
                self._output.write_bytes(end)

    def _drop_old_logs(self) -> None:
        # weed rotates what one process writes; every start begins a file of its own.
        for path in sorted(self._logs.glob("weed.*.log.*"), key=lambda path: path.lstat().st_mtime)[
            :-LOGS_KEPT
        ]:
            path.unlink(missing_ok=True)

    def _tail(self) -> str:
        """Return the last lines that weed wrote, errors alone where there are any; stacks would bury them.

        It prints no keys: it knows them by environment.
        """
        with suppress(OSError):
            text = self._output.read_bytes().decode(errors="replace")
            lines = [line.rstrip() for line in text.splitlines() if line.strip()]
            errors = [line for line in lines if _ERROR_LINE.match(line)]
            return "\n".join((errors or lines)[-TAIL_LINES:])
        return ""

    def _advice(self) -> str:
        return f"Read the logs in {self._logs}; `retrain doctor` checks the store."

    @contextmanager
    def _starting(self) -> Iterator[None]:
        self._take(self._start)
        try:
            yield
        finally:
            self._start.release()

    def _take(self, lock: FileLock, *, shared: bool = False) -> None:
        if not lock.take(shared=shared, wait_seconds=LOCK_SECONDS):
            raise StorageError(
                f"Another retrain has been starting or stopping the local store for {LOCK_SECONDS:.0f} s.",
                next_step="Wait for it, or end it.",
            )

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Make the folder; turn the local disk's errors into LocalDiskError."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
        except OSError as exc:
            raise LocalDiskError(
                f"The local store cannot be kept in {self.folder}: {exc.strerror or type(exc).__name__}.",
                next_step="Check that the disk has room and the folder may be written.",
            ) from exc


def _is_alive(state: ServerState) -> bool:
    # One of another container is of no use here: its loopback is not ours.
    process = state.process
    return process is not None and process.could_be_seen_here() and process.is_alive()


def _make_ready(client: "S3Client") -> None:
    """Make the bucket where it is not there, and read or write an object. Raises ClientError, BotoCoreError.

    The server answers before its volumes have joined it: until then every object in them gives HTTP 500.
    """
    try:
        client.create_bucket(Bucket=BUCKET)
    except ClientError as exc:
        if code_of(exc) not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
            raise
    try:
        client.get_object(Bucket=BUCKET, Key=MARKER)["Body"].read()
    except ClientError as exc:
        if code_of(exc) != "NoSuchKey":
            raise
        client.put_object(Bucket=BUCKET, Key=MARKER, Body=b"ready")


def _config(state: ServerState) -> S3Config:
    return S3Config(
        bucket=BUCKET,
        endpoint_url=f"http://{HOST}:{state.ports.s3}",
        access_key=state.access_key,
        secret_key=state.secret_key,
    )


def _end(pid: int) -> None:
    """End a process and wait until it is gone: SIGTERM, then SIGKILL."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
