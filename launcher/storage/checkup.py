"""What state the local store is in, one line for each thing with its fix: for `retrain doctor`.

Looks and starts nothing, ends nothing, waits for nothing longer than a few seconds.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from launcher.checkup import Finding, failed
from launcher.errors import RetrainError
from launcher.machine.locking import FileLock
from launcher.machine.processes import boot_id
from launcher.storage import daemons, weed
from launcher.storage.daemons import Daemon
from launcher.storage.server_state import LOCK, NAME, ServerState

ANSWER_SECONDS = 5.0
SERVER = "local store"
_MIB = 1 << 20


def check_up(folder: Path) -> Iterator[Finding]:
    """Yield what is found of the store in `folder`, which need not exist. Never raises RetrainError."""
    folder = folder.resolve()
    try:
        yield Finding("local store, version", ok=True, detail=f"SeaweedFS {weed.version()}")
    except RetrainError as error:
        yield failed("local store, version", error)
    try:
        yield _server(folder)
    except RetrainError as error:
        yield failed(SERVER, error)
    yield from _disk(folder)


def check_leftovers() -> Iterator[Finding]:
    """Yield one finding for each server whose folder was deleted."""
    for daemon in daemons.leftovers():
        yield Finding(
            "leftover local store",
            ok=False,
            detail=f"process {daemon.pid} served {daemon.started_for}, which was deleted",
            fix=f"kill -9 {daemon.pid}",
        )


def _server(folder: Path) -> Finding:
    state = ServerState.read(folder / NAME)
    running = daemons.of_folder(folder)
    if running:
        return _running(folder, running[0], state)
    if _runs_elsewhere(folder):
        return Finding(
            SERVER,
            ok=False,
            detail="runs in another container or pid namespace, where it cannot be seen from here",
            fix="run retrain there, or end the store there first",
        )
    if state is None:
        return Finding(SERVER, ok=True, detail="not running; it starts when it is needed")
    if state.is_copied_to(folder):
        detail = f"not running; a copy of {state.folder}, it gets keys and ports of its own when it starts"
        return Finding(SERVER, ok=True, detail=detail)
    taken = state.ports.taken()
    if taken:
        owners = ", ".join(f"{port} by {daemons.owner_of(port)}" for port in taken)
        return Finding(
            SERVER,
            ok=None,
            detail=f"not running, and ports of it are taken ({owners}); it moves to others when it starts",
            fix="end that program first if pods are running: they know the old ports alone",
        )
    return Finding(SERVER, ok=True, detail=_resting(state))


def _runs_elsewhere(folder: Path) -> bool:
    path = folder / LOCK
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        return not lock.take()
    except OSError:
        return False
    finally:
        lock.release()


def _running(folder: Path, daemon: Daemon, state: ServerState | None) -> Finding:
    who = f"process {daemon.pid}, {daemon.memory_bytes() // _MIB} MiB of memory"
    if not daemon.in_place:
        detail = f"{who}, serves {daemon.started_for}, which was moved here; the next command starts it anew"
        return Finding(SERVER, ok=True, detail=detail)
    if not (folder / "data").is_dir():
        detail = f"{who}, runs without its data, which was deleted; the next command starts it anew"
        return Finding(SERVER, ok=True, detail=detail)
    if state is None:
        detail = f"{who}, runs without {folder / NAME}, which was deleted; the next command starts it anew"
        return Finding(SERVER, ok=True, detail=detail)
    if not daemons.answers(state.ports.s3, seconds=ANSWER_SECONDS):
        return Finding(
            SERVER,
            ok=False,
            detail=f"{who}, does not answer on port {state.ports.s3}",
            fix=f"kill -9 {daemon.pid}; the next command starts it again with its data",
        )
    if state.process != daemon.process:
        detail = f"{who}, runs but is not the one on record; the next command takes it over"
        return Finding(SERVER, ok=True, detail=detail)
    return Finding(SERVER, ok=True, detail=f"runs on port {state.ports.s3}: {who}")


def _resting(state: ServerState) -> str:
    if state.process is None:
        return "not running; it starts when it is needed"
    why = "before this machine started anew" if state.process.boot_id != boot_id() else "and has ended"
    return (
        f"not running: process {state.process.pid} on record was it {why}; the next command starts it again"
    )


def _disk(folder: Path) -> Iterator[Finding]:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        yield Finding(
            "local store, disk",
            ok=False,
            detail=f"{existing} cannot be looked at: {error.strerror}",
            fix="check the disk",
        )
        return
    detail = f"{free // _MIB} MiB free; below {weed.FREE_BYTES_MIN // _MIB} MiB it takes no writes"
    full = free < weed.FREE_BYTES_MIN
    yield Finding("local store, disk", ok=not full, detail=detail, fix="make room" if full else "")
    data = folder / "data"
    held = _bytes_below(data)
    if held:
        detail = (
            f"holds {held // _MIB} MiB, also of runs that have come home; with no run open {data} may be"
            " deleted, and the list of runs goes with it"
        )
        yield Finding("local store, size", ok=True, detail=detail)


def _bytes_below(folder: Path) -> int:
    """Return how much the files below a folder take on the disk, as far as they can be seen."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_blocks * 512
            except OSError:
                continue
    return total
