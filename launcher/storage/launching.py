"""One start of the local store: on free ports, waited for until it answers, undone when it fails.

Knows weed, the files of the store and this machine; not who else uses it.
"""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from launcher.errors import LocalDiskError, StorageError
from launcher.machine.locking import FileLock
from launcher.machine.processes import ProcessIdentity
from launcher.storage import daemons, weed
from launcher.storage.local_bucket import bucket_of, make_ready, starting_client
from launcher.storage.server_log import ServerLog
from launcher.storage.server_state import LOCK, NAME, ServerState

START_SECONDS = 30.0
LAUNCHES_MAX = 4
"""In a row that may lose a port to another program."""
POLL_SECONDS = 0.1
GONE_SECONDS = 2.0
"""From the end of a server to that of its lock."""
FREE_BYTES_MIN = 64 << 20
"""Above what weed keeps free."""


class Launch:
    """Starts the server of a folder; `say` gets what people should know. For who has the start alone."""

    def __init__(self, folder: Path, *, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._say = say
        self._data = folder / "data"
        self._log = ServerLog(folder / "logs")
        self._file = folder / NAME
        self._serve = FileLock(folder / LOCK)

    def nobody_serves(self) -> bool:
        """Tell whether no server lives, not even where its process cannot be seen from here."""
        try:
            return self._serve.take(wait_seconds=GONE_SECONDS)
        finally:
            self._serve.release()

    def launched(self, state: ServerState) -> ServerState:
        """Return the state of a new process that answers; where none does, the record is what it was."""
        if not self._serve.take(wait_seconds=GONE_SECONDS):
            raise StorageError(
                f"The local store in {self.folder} runs in another container or pid namespace, where it"
                " cannot be seen from here.",
                next_step="Run the command there, or end the store there first.",
            )
        before = ServerState.read(self._file)
        try:
            return self._launched_alone(state)
        except BaseException:
            self._serve.release()
            with suppress(OSError):
                # Ports that nobody answers on would lead the next command astray. Where somebody has the
                # lock, the start was broken off behind the server's back: it is there, on the new ones.
                if before is not None and self._serve.take():
                    before.write(self._file)
            raise
        finally:
            # The server has it from here on.
            self._serve.release()

    def wait(self, state: ServerState) -> bool:
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

    def _launched_alone(self, state: ServerState) -> ServerState:
        """Launch until one answers, on other ports where another program has ours."""
        self._check_disk()
        for _ in range(LAUNCHES_MAX):
            state = self._launch(self._on_free_ports(state))
            try:
                if self.wait(state):
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
                lock=self._serve.fileno(),
            )
        try:
            state = replace(state, process=ProcessIdentity.of(child.pid))
            state.write(self._file)
        except BaseException:
            child.kill()
            child.wait()
            raise
        return state

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
