"""The S3 server of whoever has no bucket: one SeaweedFS for each workspace, on loopback.

It outlives the launcher that started it, keeps its keys and ports over restarts (presigned URLs of running
pods carry host and port), is started by one launcher at a time and never stopped under another that uses it.
Knows weed, boto3 and this machine.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from launcher.errors import StorageError
from launcher.machine.files import disk_errors
from launcher.machine.locking import FileLock
from launcher.storage import daemons, weed
from launcher.storage.daemons import Daemon
from launcher.storage.launching import START_SECONDS, Launch
from launcher.storage.local_bucket import bucket_of
from launcher.storage.s3_config import S3Config
from launcher.storage.server_log import ServerLog
from launcher.storage.server_state import NAME, ServerState

LOCK_SECONDS = 2 * START_SECONDS
PORT_SECONDS = 60.0
"""That a restart under an open run waits for its port: the links of running pods carry it."""
POLL_SECONDS = 0.1


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
        self._launch = Launch(self.folder, say=say)

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

    def restart(self) -> S3Config:
        """Start it again under an open run: `connect()`, but first wait for a port that another has now."""
        deadline = time.monotonic() + PORT_SECONDS
        while self._port_is_taken() and not self.is_running() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self.connect()

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

    def is_at(self, endpoint_url: str | None) -> bool:
        """Tell whether its record has it at this address. Raises StorageError when that cannot be read."""
        state = ServerState.read(self._file)
        return state is None or bucket_of(state, self.folder).endpoint_url == endpoint_url

    def stop(self, *, needed: Callable[[], bool] = lambda: False) -> bool:
        """Close, then end the server and wait for it, unless somebody uses it or it is `needed`.

        `needed` is asked when nobody can begin to use the server any more, so that its answer holds. Returns
        whether the server is at rest. Data, keys and ports stay.
        """
        try:
            with self._keeping():
                # Who cannot have it alone is not the last to leave: that one stops the server.
                if not self._use.take():
                    return False
                self._use.release()
                # The locks in this order everywhere: who has the start never waits for users.
                with self._starting():
                    if not self._use.take() or needed():
                        return False
                    self._end_all(daemons.of_folder(self.folder))
                    state = ServerState.read(self._file)
                    if not self._launch.nobody_serves():
                        return False
                    if state is not None:
                        weed.remove_sockets(state.ports)
                        # A record that stays as it was misleads nobody, and the disk may be full.
                        with suppress(OSError):
                            replace(state, process=None, ready=False).write(self._file)
                return True
        finally:
            self.close()

    def _port_is_taken(self) -> bool:
        state = ServerState.read(self._file)
        return state is not None and state.ports.s3 in state.ports.taken()

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
        # One that was moved with its folder looks for its files where they are no longer: of use to nobody.
        intact = [daemon for daemon in running if daemon.in_place and self._data.is_dir()]
        self._end_all(daemon for daemon in running if daemon not in intact)
        usable = intact[:1] if state is not None else []
        self._end_unused([daemon for daemon in intact if daemon not in usable])
        if state is None:
            state = ServerState.fresh(self.folder)
        if usable:
            # Where it is not the recorded one, its launcher died before it wrote it down.
            known = state.process == usable[0].process
            state = replace(state, process=usable[0].process, ready=state.ready and known)
            if not state.ready and not self._answers(state):
                self._end_unused(usable)
                usable = []
        if not usable:
            state = self._launch.launched(state)
        state = replace(state, ready=True, folder=str(self.folder))
        state.write(self._file)
        return state

    def _answers(self, state: ServerState) -> bool:
        try:
            return self._launch.wait(state)
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

    def _end_unused(self, running: Sequence[Daemon]) -> None:
        """End servers that cannot be used from here. Raises StorageError when another command uses them."""
        if not running:
            return
        if not self._use.take():
            raise StorageError(
                f"The local store in {self.folder}, process {running[0].pid}, cannot be used from here, but"
                " another command uses it.",
                next_step="Wait for that command, or end it; `retrain doctor` looks at the store.",
            )
        self._end_all(running)
        # At once: only who has the start may have it alone.
        self._take(self._use, shared=True)

    def _end_all(self, running: Iterable[Daemon]) -> None:
        for daemon in running:
            daemons.end(daemon.process)

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
