"""A store whose process cannot be seen, or cannot be used, from where a command runs: let alone, and said."""

import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from launcher.errors import StorageError
from launcher.machine.processes import ProcessIdentity
from launcher.storage import daemons, launching, weed
from launcher.storage.checkup import check_up
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.s3 import S3Store
from tests.launcher.storage.servers import kill, pids, recorded

ELSEWHERE = """
import sys
from pathlib import Path
from launcher.errors import RetrainError
from launcher.storage.checkup import check_up
from launcher.storage.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), say=print)
try:
    print("connected", server.connect())
except RetrainError as error:
    print(type(error).__name__, error, error.next_step)
print("at rest:", server.stop())
print(*(found.detail for found in check_up(server.folder) if found.ok is False))
"""


def in_a_pid_namespace(folder: Path) -> list[str]:
    """What a command says that sees no process of ours, as in a container that shares network and folder."""
    if not psutil.LINUX or os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody make namespaces")
    command = [*unshare, sys.executable, "-c", ELSEWHERE, str(folder)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=120
    ).stdout.splitlines()


@pytest.mark.slow
def test_a_command_in_another_pid_namespace_disturbs_nothing(server: EmbeddedServer) -> None:
    config = server.connect()
    store = S3Store(config)
    link = store.presign_put("from a pod", expires_at=datetime.now(UTC) + timedelta(minutes=5))
    before, running = recorded(server), pids(server)
    said, stopped, doctor = in_a_pid_namespace(server.folder)
    assert "StorageError" in said and str(server.folder) in said
    assert "another container or pid namespace" in said and "Run the command there" in said
    assert stopped == "at rest: False"
    assert "another container or pid namespace" in doctor
    assert recorded(server) == before
    assert EmbeddedServer(server.folder).connect() == config
    assert pids(server) == running
    answer = httpx.put(link.url.get_secret_value(), content=b"checkpoint", trust_env=False)
    assert answer.status_code == 200
    assert store.get("from a pod")[0] == b"checkpoint"


@pytest.mark.slow
def test_the_lock_of_a_server_ends_with_it(server: EmbeddedServer) -> None:
    config = server.connect()
    kill(server)
    assert server.connect() == config
    assert server.stop()
    assert all(found.ok for found in check_up(server.folder))


@pytest.mark.slow
def test_a_start_that_fails_leaves_the_record_as_it_was(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next command would look for a server where none ever was."""
    config = server.connect()
    kill(server)
    before = recorded(server)
    with monkeypatch.context() as patch:
        patch.setattr(weed, "arguments", lambda *_: [sys.executable, "-c", "print('E1122 no')"])
        patch.setattr("launcher.storage.local_ports.Ports.taken", lambda self: (self.s3,))
        with pytest.raises(StorageError, match="ended as it started"):
            server.connect()
    assert recorded(server) == before
    assert server.connect() == config


@pytest.mark.slow
def test_one_that_does_not_answer_here_is_not_ended_under_another(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.connect()
    (pid,) = pids(server)
    (server.folder / "server.json").write_text(
        (server.folder / "server.json").read_text().replace('"ready": true', '"ready": false')
    )
    monkeypatch.setattr(launching, "START_SECONDS", 1.0)
    monkeypatch.setattr("launcher.storage.local_bucket.ANSWER_SECONDS", 0.5)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StorageError, match=f"process {pid}, cannot be used from here, but another"):
            EmbeddedServer(server.folder).connect()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert pids(server) == (pid,)
    monkeypatch.undo()
    assert EmbeddedServer(server.folder).connect() == config


def test_a_number_that_is_used_again_at_that_moment_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends and a stranger gets its number just when psutil begins to look at it."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        before = ProcessIdentity.of(stranger.pid)
        reused: list[int] = []
        handle = psutil.Process

        def late(pid: int) -> Any:
            reused.append(pid)
            return handle(pid)

        monkeypatch.setattr(psutil, "Process", late)
        monkeypatch.setattr(ProcessIdentity, "is_alive", lambda self: not reused)
        daemons.end(before)
        monkeypatch.undo()
        try:
            assert reused
            assert stranger.poll() is None
        finally:
            stranger.kill()
