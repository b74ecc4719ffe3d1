"""`retrain doctor` on the local store: each state in one line with its fix; it starts and ends nothing."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.checkup import Finding
from launcher.errors import UsageError
from launcher.machine.processes import ProcessIdentity
from launcher.storage import checkup, weed
from launcher.storage.checkup import SERVER, check_leftovers, check_up
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.server_state import ServerState
from tests.launcher.storage.servers import kill, pids, recorded, rerecord


def found(server: EmbeddedServer, check: str = SERVER) -> Finding:
    before = pids(server)
    found = {item.check: item for item in check_up(server.folder)}
    assert pids(server) == before
    assert all("\n" not in item.detail and (item.fix or item.ok is not False) for item in found.values())
    return found[check]


def test_nothing_was_ever_started(server: EmbeddedServer) -> None:
    item = found(server)
    assert (item.ok, item.fix) == (True, "")
    assert "not running" in item.detail
    assert not server.folder.exists()
    assert found(server, "local store, version").detail.startswith("SeaweedFS 4.")


@pytest.mark.slow
def test_it_runs_and_then_rests(server: EmbeddedServer) -> None:
    server.connect()
    item = found(server)
    (pid,) = pids(server)
    assert item.ok
    assert f"port {recorded(server)['ports']['s3']}" in item.detail
    assert f"process {pid}, " in item.detail
    assert "MiB of memory" in item.detail
    size = found(server, "local store, size")
    assert str(server.folder / "data") in size.detail
    server.stop()
    assert found(server).detail == "not running; it starts when it is needed"


@pytest.mark.parametrize(
    ("change", "said"),
    [({}, "has ended"), ({"boot_id": "earlier"}, "before this machine started anew")],
)
def test_what_is_on_record_is_stale(server: EmbeddedServer, change: dict[str, str], said: str) -> None:
    server.folder.mkdir()
    ServerState.fresh(server.folder).write(server.folder / "server.json")
    process = ProcessIdentity.current().to_json() | {"started": 1.0} | change
    rerecord(server, lambda fields: fields.update(process=process, ready=True))
    item = found(server)
    assert item.ok
    assert said in item.detail
    assert f"process {process['pid']} on record" in item.detail


@pytest.mark.parametrize("content", ["", "garbage", "[]"])
def test_a_record_that_cannot_be_read(server: EmbeddedServer, content: str) -> None:
    server.folder.mkdir()
    (server.folder / "server.json").write_text(content)
    item = found(server)
    assert item.ok is False
    assert str(server.folder / "server.json") in item.detail
    assert "delete" in item.fix


def test_a_port_that_another_program_has(server: EmbeddedServer) -> None:
    server.folder.mkdir()
    ServerState.fresh(server.folder).write(server.folder / "server.json")
    port = recorded(server)["ports"]["s3"]
    with socket.create_server(("127.0.0.1", port)):
        item = found(server)
    assert item.ok is None
    assert f"{port} by python" in item.detail
    assert f"process {os.getpid()}" in item.detail
    assert item.fix


def test_a_copy_is_told(server: EmbeddedServer, tmp_path: Path) -> None:
    server.folder.mkdir()
    ServerState.fresh(server.folder).write(server.folder / "server.json")
    shutil.copytree(server.folder, tmp_path / "copy")
    item = found(EmbeddedServer(tmp_path / "copy"))
    assert item.ok
    assert f"a copy of {server.folder}" in item.detail


def moved(server: EmbeddedServer) -> EmbeddedServer:
    server.folder.rename(server.folder.with_name("moved"))
    return EmbeddedServer(server.folder.with_name("moved"))


def without(name: str) -> Callable[[EmbeddedServer], EmbeddedServer]:
    def delete(server: EmbeddedServer) -> EmbeddedServer:
        path = server.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return server

    return delete


def forgotten(server: EmbeddedServer) -> EmbeddedServer:
    rerecord(server, lambda fields: fields.update(process=None, ready=False))
    return server


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disturb", "said"),
    [
        (moved, "was moved here; the next command starts it anew"),
        (without("data"), "runs without its data"),
        (without("server.json"), "server.json, which was deleted"),
        (forgotten, "not the one on record; the next command takes it over"),
    ],
)
def test_one_that_runs_and_is_not_as_it_should_be(
    server: EmbeddedServer, disturb: Callable[[EmbeddedServer], EmbeddedServer], said: str
) -> None:
    server.connect()
    disturbed = disturb(server)
    try:
        item = found(disturbed)
        assert item.ok
        assert said in item.detail
        disturbed.connect()
        assert "runs on port" in found(disturbed).detail, "the next command did what was said"
    finally:
        kill(disturbed)


@pytest.mark.slow
def test_one_that_hangs_is_told_in_time(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "ANSWER_SECONDS", 0.5)
    server.connect()
    (pid,) = pids(server)
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    item = found(server)
    assert time.monotonic() - started < 5
    assert item.ok is False
    assert "does not answer" in item.detail
    assert item.fix.startswith(f"kill -9 {pid};")
    subprocess.run(item.fix.partition(";")[0].split(), check=True)
    server.connect()
    assert "runs on port" in found(server).detail


@pytest.mark.slow
def test_a_leftover_is_told_until_it_is_ended(server: EmbeddedServer) -> None:
    server.connect()
    (pid,) = pids(server)
    shutil.rmtree(server.folder)
    (item,) = [item for item in check_leftovers() if str(server.folder) in item.detail]
    assert item.ok is False
    assert item.fix == f"kill -9 {pid}"
    subprocess.run(item.fix.split(), check=True)
    assert not [item for item in check_leftovers() if str(server.folder) in item.detail]


def test_a_disk_that_is_full(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.storage.checkup.shutil.disk_usage", lambda _: SimpleNamespace(free=9 << 20))
    item = found(server, "local store, disk")
    assert item.ok is False
    assert "9 MiB free; below 256 MiB it takes no writes" in item.detail
    assert item.fix == "make room"


def no_binary() -> Path:
    raise UsageError("none is installed", next_step="install it")


@pytest.mark.parametrize("broken", [no_binary, lambda: Path("/bin/false"), lambda: Path("/nowhere/weed")])
def test_a_weed_that_does_not_run(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    monkeypatch.setattr(weed, "binary", broken)
    item = found(server, "local store, version")
    assert item.ok is False
    assert item.fix
