"""Locks that end with their holder and survive the deletion of their file."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher.machine.locking import FileLock

HOLD = """
import sys, time
from pathlib import Path
from launcher.machine.locking import FileLock
print(FileLock(Path(sys.argv[1])).take(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_many_share_or_one_has_it_alone(path: Path) -> None:
    first, second, third = FileLock(path), FileLock(path), FileLock(path)
    assert first.take(shared=True)
    assert second.take(shared=True)
    assert not third.take()
    first.release()
    assert not third.take()
    assert second.take(), "from shared to alone"
    assert not first.take(shared=True)
    second.release()
    assert first.take(shared=True)


def test_it_is_waited_for(path: Path) -> None:
    holder, waiter = FileLock(path), FileLock(path)
    assert holder.take()
    assert not waiter.take(wait_seconds=0.2)
    release = threading.Timer(0.2, holder.release)
    release.start()
    assert waiter.take(wait_seconds=30)
    release.join()


def test_who_is_killed_holds_nothing(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert not FileLock(path).take()
        holder.send_signal(signal.SIGKILL)
    assert FileLock(path).take()


def test_a_deleted_file_protects_nothing(path: Path) -> None:
    old, new = FileLock(path), FileLock(path)
    assert old.take()
    path.unlink()
    assert not old.is_held()
    assert new.take()
    assert new.is_held()
    assert not FileLock(path).take()


def test_it_can_leave_nothing_behind(path: Path) -> None:
    lock = FileLock(path)
    assert lock.take()
    lock.release(remove=True)
    assert not path.exists()
    lock.release(remove=True)
    assert lock.take()


def test_a_folder_that_is_not_there_is_an_error(path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        FileLock(path / "lock").take()
