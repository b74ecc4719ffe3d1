"""Which local stores run on this machine, whose they are, and where the folder of each is now.

A process is recognised by what it is, not by what a file says of it: files are copied, moved, deleted and
restored. Knows psutil and how our servers are started.
"""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from launcher.errors import StorageError
from launcher.machine.processes import ProcessIdentity
from launcher.storage import weed

END_SECONDS = 20.0
_KINDS = ("server", "mini")
"""What weed is told to be; `mini` by earlier versions of retrain."""


@dataclass(frozen=True)
class Daemon:
    """A running server that some retrain of this user started."""

    process: ProcessIdentity
    started_for: Path
    """The folder it was started for, as its command line has it."""
    folder: Path | None
    """Where that folder is now; None when it was deleted."""
    marked: bool
    """Whether it says of itself that it is retrain's."""

    @property
    def pid(self) -> int:
        """Return its number."""
        return self.process.pid

    @property
    def in_place(self) -> bool:
        """Whether its folder is where it was, so that it finds its own files."""
        return self.folder == self.started_for

    def memory_bytes(self) -> int:
        """Return its resident memory, 0 when it is gone."""
        with suppress(psutil.Error):
            return int(psutil.Process(self.pid).memory_info().rss)
        return 0


def end(process: ProcessIdentity) -> None:
    """End a server at once and wait until it is gone; one that ended before is no error.

    By SIGKILL: whatever it acknowledged is in its files by then, while its own shutdown waits for every open
    connection, up to 40 s, and at times for ever. Raises StorageError when even that does not end it.
    """
    try:
        # Before the look: a number that is used again after it is another process to psutil, which refuses.
        running = psutil.Process(process.pid)
        if process.could_be_seen_here() and process.is_alive():
            running.kill()
            running.wait(END_SECONDS)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired as exc:
        raise StorageError(
            f"The local store, process {process.pid}, does not end {END_SECONDS:.0f} s after it was killed.",
            next_step="Its disk may not answer: look at it with `ps` and `dmesg`.",
        ) from exc


def at(process: ProcessIdentity) -> Daemon | None:
    """Return the server that this very process is; None when it ended, or is something else."""
    if not (process.could_be_seen_here() and process.is_alive()):
        return None
    with suppress(psutil.Error, OSError):
        return _daemon(psutil.Process(process.pid))
    return None


def all_of_mine() -> tuple[Daemon, ...]:
    """Return every server that this user's retrains run in this container or on this machine."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            daemon = _daemon(process)
            if daemon is not None:
                found.append(daemon)
    return tuple(found)


def of_folder(folder: Path) -> tuple[Daemon, ...]:
    """Return the servers of a folder, also of one that was moved under them."""
    return tuple(daemon for daemon in all_of_mine() if daemon.folder == folder)


def leftovers() -> tuple[Daemon, ...]:
    """Return the servers whose folder was deleted: their data is gone, and no command will come to them."""
    return tuple(daemon for daemon in all_of_mine() if daemon.folder is None and daemon.marked)


def listens(pid: int, port: int) -> bool:
    """Tell whether it is this process that listens on a port."""
    with suppress(psutil.Error):
        return any(_is_listener(found, port) for found in psutil.Process(pid).net_connections("inet"))
    return False


def owner_of(port: int) -> str:
    """Name the program that listens on a port of loopback, as far as this user may know."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("inet"):
            if _is_listener(connection, port) and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
    return "another program"


def answers(port: int, *, seconds: float) -> bool:
    """Tell whether somebody takes a connection on a port of loopback and answers HTTP on it."""
    try:
        with socket.create_connection((weed.HOST, port), timeout=seconds) as connection:
            connection.settimeout(seconds)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(5) == b"HTTP/"
    except OSError:
        return False


def _is_listener(connection: Any, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr.port == port)


def _daemon(process: psutil.Process) -> Daemon | None:
    """Return what a process is, None for anything but a server of ours. Raises psutil.Error and OSError."""
    line = process.cmdline()
    if not any(kind in line for kind in _KINDS) or process.status() == psutil.STATUS_ZOMBIE:
        return None
    data = next((argument.removeprefix("-dir=") for argument in line if argument.startswith("-dir=")), "")
    folder = Path(data).parent
    if Path(data).name != "data" or f"-logdir={folder / 'logs'}" not in line:
        return None
    if hasattr(os, "getuid") and process.uids().real != os.getuid():
        return None
    return Daemon(
        process=ProcessIdentity.of(process.pid),
        started_for=folder,
        folder=_working_folder(process),
        marked=weed.MARK in process.environ(),
    )


def _working_folder(process: psutil.Process) -> Path | None:
    """Return where the folder in which a process works is now, None for a deleted one.

    The kernel follows a folder that is moved; one that was deleted and made again is another one. Raises
    FileNotFoundError for a folder that is not to be seen from here, as in another container.
    """
    if not psutil.LINUX:
        path = Path(process.cwd())
        return path if path.is_dir() else None
    link = Path(f"/proc/{process.pid}/cwd")
    path, there = link.readlink(), link.stat()
    if there.st_nlink == 0:
        return None
    if not os.path.samestat(there, path.stat()):
        raise FileNotFoundError(f"{path} is another folder here")
    return path
