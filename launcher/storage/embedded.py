"""The S3 server of whoever has no bucket: one SeaweedFS for each workspace, on loopback.

It outlives the launcher that started it, keeps its keys and ports over restarts (presigned URLs of running
pods carry host and port), is started by one launcher at a time and never stopped under another that uses it.
Knows weed, boto3 and this machine.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from launcher.errors import LocalDiskError, StorageError
from launcher.files import disk_errors
from launcher.locking import FileLock
from launcher.machine import ProcessIdentity
from launcher.storage import daemons, weed
from launcher.storage.daemons import Daemon
from launcher.storage.local_bucket import BUCKET, bucket_of, make_ready, starting_client
from launcher.storage.s3_config import S3Config
from launcher.storage.server_log import ServerLog
from launcher.storage.server_state import NAME, ServerState

__all__ = ["BUCKET", "EmbeddedServer"]

START_SECONDS = 30.0
LAUNCHES_MAX = 4
"""In a row that may lose a port to another program."""
LOCK_SECONDS = 2 * START_SECONDS
POLL_SECONDS = 0.1
FREE_BYTES_MIN = 64 << 20
"""Above what weed keeps free."""


class EmbeddedServer:
    """The S3 server of one workspace, in `folder` (`.retrain/store`); `say` gets what people should know."""

    def __init__(self, folder: Path, *, say: Callable[[str], None] = lambda _: None) -> None:
        # One spelling of the path: the process is recognised by it.
        self.folder = folder.resolve()
        self._say = say
        self._data = self.folder / "data"
        self._log = ServerLog(self.folder / "logs")
        self._file = self.folder / NAME
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
                return bucket_of(self._ready(), self.folder)
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
        """Tell whether the server's process lives. Raises StorageError when its record cannot be read."""
        state = ServerState.read(self._file)
        return (state is not None and self._daemon(state) is not None) or bool(daemons.of_folder(self.folder))

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
                    self._end_all(daemons.of_folder(self.folder))
                    state = ServerState.read(self._file)
                    if state is not None:
                        weed.remove_sockets(state.ports)
                        # A record that stays as it was misleads nobody, and the disk may be full.
                        with suppress(OSError):
                            replace(state, process=None, ready=False).write(self._file)
                return True
        finally:
            self.close()

    def _ready(self) -> ServerState:
        """Return the state of a server that answers, started if need be."""
        state = ServerState.read(self._file)
        self._log.trim()
        if state is None or not state.ready or self._daemon(state) is None:
            with self._starting():
                return self._started()
        return state

    def _daemon(self, state: ServerState) -> Daemon | None:
        """Return the recorded process, if it lives, is of this folder, and still has its data."""
        daemon = daemons.at(state.process) if state.process is not None else None
        if daemon is None or daemon.folder != self.folder or not daemon.in_place:
            return None
        return daemon if self._data.is_dir() else None

    def _started(self) -> ServerState:
        self._end_leftovers()
        state = self._own_state()
        running = daemons.of_folder(self.folder)
        # One that was moved with its folder looks for its files where they are no longer.
        usable = [daemon for daemon in running if daemon.in_place and state is not None]
        if not self._data.is_dir():
            usable = []
        self._end_all([daemon for daemon in running if daemon not in usable[:1]])
        if state is None:
            state = ServerState.fresh(self.folder)
        if usable:
            # Where it is not the recorded one, its launcher died before it wrote it down.
            known = state.process == usable[0].process
            state = replace(state, process=usable[0].process, ready=state.ready and known)
            if not state.ready and not self._answers(state):
                self._end(state)
                usable = []
        if not usable:
            state = self._launched(state)
        state = replace(state, ready=True, folder=str(self.folder))
        state.write(self._file)
        return state

    def _answers(self, state: ServerState) -> bool:
        try:
            return self._wait(state)
        except StorageError:
            return False

    def _own_state(self) -> ServerState | None:
        """Return what is on record for this very folder."""
        state = ServerState.read(self._file)
        if state is not None and state.is_copied_to(self.folder):
            self._say(
                f"{self.folder} is a copy of {state.folder}: its local store gets keys and ports of its own."
            )
            return None
        return state

    def _end_leftovers(self) -> None:
        """End servers whose folder was deleted: no command will ever come to them."""
        for daemon in daemons.leftovers():
            daemons.end(daemon.process)
            self._say(
                f"ended a leftover local store, process {daemon.pid}: its folder {daemon.started_for} was"
                " deleted"
            )

    def _end_all(self, running: Iterable[Daemon]) -> None:
        for daemon in running:
            daemons.end(daemon.process)

    def _launched(self, state: ServerState) -> ServerState:
        """Return the state of a new process that answers, on other ports where another program has ours."""
        self._check_disk()
        for _ in range(LAUNCHES_MAX):
            state = self._launch(self._on_free_ports(state))
            try:
                if self._wait(state):
                    return state
            except BaseException:
                self._end(state)
                raise
            if not state.ports.taken():
                break
            # Somebody came between the look and the server.
        raise StorageError(
            f"The local S3 server ended as it started.\n{self._log.tail()}", next_step=self._advice()
        )

    def _end(self, state: ServerState) -> None:
        if state.process is not None:
            daemons.end(state.process)
        weed.remove_sockets(state.ports)

    def _on_free_ports(self, state: ServerState) -> ServerState:
        taken = state.ports.taken()
        weed.remove_sockets(state.ports)
        if not taken:
            return state
        ports = state.ports.without(taken)
        if state.ports.s3 != ports.s3 and self._data.is_dir():
            self._say(
                f"Port {state.ports.s3} of the local store is taken by {daemons.owner_of(state.ports.s3)}; it"
                f" moves to port {ports.s3}. Pods that are still running cannot reach it there."
            )
        return replace(state, ports=ports)

    def _launch(self, state: ServerState) -> ServerState:
        binary = weed.binary()
        state = replace(state, process=None, ready=False, folder=str(self.folder))
        # Keys and ports first: whoever finds the process without a record of it can still use it.
        state.write(self._file)
        self._data.mkdir(mode=0o700, exist_ok=True)
        self._log.begin()
        with self._log.output.open("ab") as output:
            child = weed.start(
                binary,
                self.folder,
                output,
                state.ports,
                access_key=state.access_key,
                secret_key=state.secret_key,
            )
        try:
            state = replace(state, process=ProcessIdentity.of(child.pid))
            state.write(self._file)
        except BaseException:
            child.kill()
            child.wait()
            raise
        return state

    def _wait(self, state: ServerState) -> bool:
        """Wait until the server has its bucket and gives back what was stored in it before.

        Returns False when it ended. Raises StorageError when it does neither.
        """
        client = starting_client(bucket_of(state, self.folder))
        process = state.process
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process is None or not process.is_alive():
                return False
            # Another S3 server may have come to our port just before ours did.
            if make_ready(client) and daemons.listens(process.pid, state.ports.s3):
                return True
            time.sleep(POLL_SECONDS)
        raise StorageError(
            f"The local S3 server did not answer within {START_SECONDS:.0f} s.\n{self._log.tail()}",
            next_step=self._advice(),
        )

    def _check_disk(self) -> None:
        free = shutil.disk_usage(self.folder).free
        needed = weed.FREE_BYTES_MIN + FREE_BYTES_MIN
        if free < needed:
            raise LocalDiskError(
                f"The disk of {self.folder} has {free >> 20} MiB free; the local store needs "
                f"{needed >> 20} MiB.",
                next_step="Make room, or configure a bucket in retrain.toml.",
            )

    def _advice(self) -> str:
        return f"Read the logs in {self._log.folder}; `retrain doctor` checks the store."

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
        with disk_errors(
            f"The local store cannot be kept in {self.folder}", when_full="Make room, then try again."
        ):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
