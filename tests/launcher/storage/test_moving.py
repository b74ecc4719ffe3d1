"""Folders that are moved, copied and deleted under a running local store."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from launcher.storage import daemons, weed
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.local_ports import GRPC_OFFSET, Ports
from launcher.storage.s3 import S3Store
from tests.launcher.storage.servers import clean, kill, pids, recorded

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "one" / "store")
    yield server
    clean(server)


def test_a_copied_workspace_gets_a_store_of_its_own(server: EmbeddedServer, tmp_path: Path) -> None:
    config = server.connect()
    S3Store(config).put("key", b"old")
    shutil.copytree(
        tmp_path / "one", tmp_path / "two", ignore=lambda _, names: [n for n in names if n.endswith(".sock")]
    )
    heard: list[str] = []
    copy = EmbeddedServer(tmp_path / "two" / "store", say=heard.append)
    try:
        other = copy.connect()
        assert (other.endpoint_url, other.access_key) != (config.endpoint_url, config.access_key)
        assert str(server.folder) in heard[0]
        S3Store(other).put("key", b"new")
        assert S3Store(config).get("key")[0] == b"old"
        assert copy.stop()
        assert server.is_running(), "the copy's stop is not the original's"
        assert copy.connect() == other
        assert S3Store(other).get("key")[0] == b"new"
    finally:
        kill(copy)


def test_a_moved_workspace_keeps_keys_ports_and_data(server: EmbeddedServer, tmp_path: Path) -> None:
    config = server.connect()
    S3Store(config).put("key", b"data")
    (pid,) = pids(server)
    server.close()
    (tmp_path / "one").rename(tmp_path / "two")
    moved = EmbeddedServer(tmp_path / "two" / "store")
    try:
        assert moved.is_running()
        now = moved.connect()
        assert (now.endpoint_url, now.secret_key) == (config.endpoint_url, config.secret_key)
        assert not psutil.pid_exists(pid), "it would look for its files where they are no longer"
        assert S3Store(now).get("key")[0] == b"data"
    finally:
        kill(moved)
    assert not server.folder.exists()


def test_data_that_was_deleted_under_it_are_not_written_to(server: EmbeddedServer) -> None:
    S3Store(server.connect()).put("key", b"data")
    (pid,) = pids(server)
    shutil.rmtree(server.folder / "data")
    store = S3Store(server.connect())
    assert pids(server) != (pid,)
    assert [item.key for item in store.list("")] == [".ready"]
    store.put("key", b"data")


def test_a_leftover_is_ended_by_the_next_start_of_any_store(server: EmbeddedServer, tmp_path: Path) -> None:
    server.connect()
    (leftover,) = pids(server)
    shutil.rmtree(server.folder)
    assert leftover in {daemon.pid for daemon in daemons.leftovers()}
    heard: list[str] = []
    other = EmbeddedServer(tmp_path / "other" / "store", say=heard.append)
    try:
        other.connect()
    finally:
        kill(other)
    assert not psutil.pid_exists(leftover)
    assert [line for line in heard if str(leftover) in line and str(server.folder) in line]


def test_somebody_elses_weed_is_let_alone(server: EmbeddedServer, tmp_path: Path) -> None:
    """One that a person started looks alike but for the mark, also when its folder is gone."""
    folder = tmp_path / "theirs"
    (folder / "data").mkdir(parents=True)
    (folder / "logs").mkdir()
    environment = weed.environment(folder, access_key="a", secret_key="b")
    del environment[weed.MARK]
    ports = Ports.choose()
    with subprocess.Popen(
        weed.arguments(weed.binary(), folder / "data", folder / "logs", ports),
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as theirs:
        try:
            while not daemons.answers(ports.s3, seconds=1.0):
                assert theirs.poll() is None
                time.sleep(0.1)
            shutil.rmtree(folder)
            server.connect()
            server.stop()
            assert theirs.poll() is None
        finally:
            theirs.kill()


SERVE = """
import sys
from pathlib import Path
from launcher.storage.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.connect()
print("up", flush=True)
sys.stdin.read()
server.stop()
"""


@contextmanager
def in_a_namespace(folder: Path, first: str) -> Iterator[None]:
    """Let a launcher use the store of `folder` in a mount namespace of its own, as in a container."""
    if not psutil.LINUX or os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    command = ["unshare", "--mount", "sh", "-c", f'{first} && exec "$@"', "sh"]
    with subprocess.Popen(
        [*command, sys.executable, "-c", SERVE, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as launcher:
        assert launcher.stdout is not None
        if launcher.stdout.readline().strip() != "up":
            pytest.skip("this machine lets nobody mount")
        try:
            yield
        finally:
            launcher.communicate(timeout=60)
    assert launcher.returncode == 0, "it had its server to the end"


def test_one_of_another_container_is_let_alone(tmp_path: Path) -> None:
    """The same path is another folder there, and here it may not even be: it is not one that was deleted."""
    folder = tmp_path / "store"
    with in_a_namespace(folder, f'mount -t tmpfs tmpfs "{tmp_path}"'):
        assert not folder.exists()
        assert not EmbeddedServer(folder).is_running()
        assert folder not in {daemon.started_for for daemon in daemons.all_of_mine()}


def test_one_that_a_service_started_is_found(tmp_path: Path) -> None:
    """systemd's PrivateTmp and the like: another namespace, but the very same folder."""
    server = EmbeddedServer(tmp_path / "store")
    with in_a_namespace(server.folder, "true"):
        assert server.is_running()
        (pid,) = pids(server)
        server.connect()
        assert pids(server) == (pid,)
        server.close()
    assert not server.is_running()


def test_it_leaves_no_sockets_in_tmp(server: EmbeddedServer) -> None:
    server.connect()
    ports = Ports.from_json(recorded(server)["ports"])
    sockets = [
        Path(f"/tmp/seaweedfs-{part}-grpc-{port + GRPC_OFFSET}.sock")
        for part, port in recorded(server)["ports"].items()
    ]
    assert all(path.is_socket() for path in sockets)
    assert not list(Path("/tmp").glob(f"seaweedfs-*-{ports.s3}.sock")), "those with a flag lie in the folder"
    server.stop()
    assert not any(path.exists() for path in sockets)
    server.connect()
    kill(server)
    assert any(path.exists() for path in sockets), "a kill leaves them"
    server.stop()
    assert not any(path.exists() for path in sockets)
