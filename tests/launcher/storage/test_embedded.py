"""The server on loopback: started once, found again, hard to lose."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

from launcher.errors import LocalDiskError, StorageError, UsageError
from launcher.machine.locking import FileLock
from launcher.machine.processes import ProcessIdentity
from launcher.storage import embedded, launching, server_log, weed
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.local_bucket import MARKER
from launcher.storage.local_ports import GRPC_OFFSET, Ports
from launcher.storage.s3 import S3Store
from tests.launcher.storage.servers import CONNECT, kill, pids, recorded, rerecord


@pytest.mark.slow
def test_it_starts_once_and_stops(server: EmbeddedServer) -> None:
    assert not server.is_running()
    first = server.connect()
    running = pids(server)
    assert server.is_running()
    assert server.connect() == first
    assert pids(server) == running
    server.stop()
    assert not server.is_running()
    server.stop()


@pytest.mark.slow
def test_it_keeps_to_loopback_and_keeps_its_secrets(server: EmbeddedServer) -> None:
    config = server.connect()
    (pid,) = pids(server)
    process = psutil.Process(pid)
    listening = {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    assert not any(config.secret_key in argument for argument in process.cmdline())
    assert set(process.environ()) == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "GOGC",
        "GOMEMLIMIT",
        "HOME",
        "PATH",
        "RETRAIN_STORE",
        "WEED_MASTER_VOLUME_GROWTH_COPY_1",
        "WEED_S3_SSE_KEY",
    }
    assert (server.folder / "server.json").stat().st_mode & 0o777 == 0o600
    assert server.folder.stat().st_mode & 0o777 == 0o700
    assert os.getsid(pid) == pid, "a session of its own: a Ctrl-C of the launcher does not reach it"


@pytest.mark.slow
def test_a_kill_and_a_restart_keep_data_keys_ports_and_links(server: EmbeddedServer) -> None:
    config = server.connect()
    store = S3Store(config)
    store.put("runs/1/record.json", b"precious")
    link = store.presign_get("runs/1/record.json", expires_at=datetime.now(UTC) + timedelta(minutes=5))
    kill(server)
    assert not server.is_running()
    assert server.connect() == config
    assert store.get("runs/1/record.json")[0] == b"precious"
    assert httpx.get(link.url.get_secret_value(), trust_env=False).content == b"precious"


@pytest.mark.slow
def test_two_launchers_start_one(server: EmbeddedServer) -> None:
    command = [sys.executable, "-c", CONNECT, str(server.folder)]
    starters = [subprocess.Popen(command, stdout=-1, text=True) for _ in range(2)]
    answers = {starter.communicate(timeout=90)[0].strip() for starter in starters}
    assert [starter.returncode for starter in starters] == [0, 0]
    assert answers == {server.connect().endpoint_url}
    assert len(pids(server)) == 1


@pytest.mark.slow
def test_it_outlives_the_launcher_that_is_killed(server: EmbeddedServer) -> None:
    script = CONNECT + "import os; sys.stdout.flush(); os.killpg(0, 9)"
    command = [sys.executable, "-c", script, str(server.folder)]
    starter = subprocess.run(command, stdout=-1, text=True, timeout=90, start_new_session=True, check=False)
    assert starter.returncode == -signal.SIGKILL
    assert server.is_running()
    assert server.connect().endpoint_url == starter.stdout.strip()


@pytest.mark.slow
def test_a_server_that_was_never_written_down_is_taken_over(server: EmbeddedServer) -> None:
    config = server.connect()
    running = pids(server)
    rerecord(server, lambda fields: fields.update(process=None, ready=False))
    assert server.connect() == config
    assert pids(server) == running
    assert recorded(server)["process"]["pid"] == running[0]


@pytest.mark.slow
def test_a_server_whose_folder_was_deleted_is_replaced(server: EmbeddedServer) -> None:
    config = server.connect()
    (old,) = pids(server)
    shutil.rmtree(server.folder)
    assert server.connect() != config
    (new,) = pids(server)
    assert new != old
    assert [item.key for item in S3Store(server.connect()).list("")] == [MARKER]


@pytest.mark.slow
def test_the_record_of_a_dead_process_does_not_mislead(server: EmbeddedServer) -> None:
    config = server.connect()
    kill(server)
    # Its number now belongs to somebody else, who must not be taken for it, and not be ended.
    other = ProcessIdentity.current().to_json() | {"started": 1.0}
    rerecord(server, lambda fields: fields.update(process=other))
    assert not server.is_running()
    server.stop()
    assert server.connect() == config
    assert server.is_running()


@pytest.mark.slow
def test_a_port_that_a_stranger_took_is_given_up_and_said(server: EmbeddedServer) -> None:
    heard: list[str] = []
    server = EmbeddedServer(server.folder, say=heard.append)
    config = server.connect()
    S3Store(config).put("key", b"data")
    kill(server)
    old = recorded(server)["ports"]
    with socket.create_server(("127.0.0.1", old["s3"])), socket.create_server(("127.0.0.1", old["master"])):
        moved = server.connect()
    new = recorded(server)["ports"]
    assert {name for name in old if old[name] != new[name]} == {"s3", "master"}
    assert moved.endpoint_url != config.endpoint_url
    assert replace(moved, endpoint_url=config.endpoint_url) == config
    assert S3Store(moved).get("key")[0] == b"data"
    (message,) = heard
    assert str(old["s3"]) in message
    assert str(new["s3"]) in message


@pytest.mark.slow
def test_an_early_end_is_told_with_its_last_lines(server: EmbeddedServer) -> None:
    server.folder.mkdir()
    (server.folder / "data").write_text("a file where a folder should be")
    with pytest.raises(LocalDiskError, match="File exists"):
        server.connect()
    (server.folder / "data").unlink()
    (server.folder / "data").mkdir()
    (server.folder / "data" / "filerldb2").write_text("no database")
    with pytest.raises(StorageError, match="ended as it started") as caught:
        server.connect()
    assert "filerldb2" in str(caught.value)
    assert str(server.folder) in caught.value.next_step


@pytest.mark.slow
def test_it_is_not_stopped_under_somebody_who_uses_it(server: EmbeddedServer) -> None:
    config = server.connect()
    other = EmbeddedServer(server.folder)
    assert other.connect() == config
    assert not other.stop()
    assert server.is_running()
    S3Store(config).put("key", b"data")
    assert server.stop()
    assert not server.is_running()


@pytest.mark.slow
def test_who_is_killed_keeps_it_no_longer(server: EmbeddedServer) -> None:
    script = CONNECT + "sys.stdout.flush(); import time; time.sleep(60)"
    command = [sys.executable, "-c", script, str(server.folder)]
    with subprocess.Popen(command, stdout=-1, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline().strip()
        assert not server.stop()
        user.kill()
    assert server.stop()
    assert not server.is_running()


@pytest.mark.slow
def test_it_goes_on_while_it_is_needed_or_nobody_can_tell(server: EmbeddedServer) -> None:
    server.connect()
    assert not server.stop(needed=lambda: True)
    server.connect()
    with pytest.raises(StorageError, match="no answer"):
        server.stop(needed=lambda: (_ for _ in ()).throw(StorageError("no answer")))
    assert server.is_running()
    assert EmbeddedServer(server.folder).stop(), "the share was given back all the same"


@pytest.mark.slow
def test_nobody_begins_to_use_it_while_it_is_decided_and_stopped(server: EmbeddedServer) -> None:
    server.connect()
    command = [sys.executable, "-c", CONNECT, str(server.folder)]
    starters = []

    def needed() -> bool:
        starters.append(subprocess.Popen(command, stdout=-1, text=True))
        with pytest.raises(subprocess.TimeoutExpired):
            starters[0].wait(2)
        return False

    assert server.stop(needed=needed)
    answer, _ = starters[0].communicate(timeout=90)
    assert starters[0].returncode == 0
    assert server.connect().endpoint_url == answer.strip(), "started again by who came meanwhile"
    assert server.is_running()


@pytest.mark.slow
def test_a_record_of_another_version_costs_no_server(server: EmbeddedServer) -> None:
    config = server.connect()
    running = pids(server)
    rerecord(server, lambda fields: fields["process"].pop("pid_namespace"))
    assert server.connect() == config
    assert pids(server) == running


def test_a_failed_start_lets_go_of_it(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weed, "binary", lambda: (_ for _ in ()).throw(UsageError("enough")))
    with pytest.raises(UsageError):
        server.connect()
    assert EmbeddedServer(server.folder).stop()


def test_a_stop_that_takes_too_long_is_said(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOCK_SECONDS", 0.2)
    server.folder.mkdir()
    stopper = FileLock(server.folder / "users.lock")
    assert stopper.take()
    with pytest.raises(StorageError, match="starting or stopping"):
        server.connect()


def test_silence_is_an_error_in_the_end(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "START_SECONDS", 0.5)
    monkeypatch.setattr(
        weed,
        "arguments",
        lambda *_: [sys.executable, "-c", "import time; print('hm', flush=True); time.sleep(60)"],
    )
    with pytest.raises(StorageError, match=r"did not answer within 0 s\.\nhm"):
        server.connect()
    assert not psutil.pid_exists(recorded(server)["process"]["pid"]), "what was started is not left"


def test_a_full_disk_is_said_before_anything_starts(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "launcher.storage.launching.shutil.disk_usage",
        lambda _: SimpleNamespace(free=300 << 20),
    )
    with pytest.raises(LocalDiskError, match="300 MiB free; the local store needs 320 MiB"):
        server.connect()
    assert not server.is_running()


def test_without_the_package_the_way_out_is_said(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("launcher.storage.weed.sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        server.connect()
    assert "retrain[local]" in caught.value.next_step


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ports": {"s3": 1}}'])
def test_a_record_that_cannot_be_read_is_left_to_a_person(server: EmbeddedServer, content: str) -> None:
    server.folder.mkdir()
    (server.folder / "server.json").write_text(content)
    with pytest.raises(StorageError, match=r"server\.json cannot be read"):
        server.connect()
    assert (server.folder / "server.json").read_text() == content


def test_what_it_says_stays_short(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    (server.folder / "logs").mkdir(parents=True)
    output = server.folder / "logs" / "output.txt"
    output.write_bytes(b"x" * (server_log.OUTPUT_BYTES_MAX + 1) + b"the end")
    monkeypatch.setattr(weed, "binary", lambda: (_ for _ in ()).throw(UsageError("enough")))
    with pytest.raises(UsageError, match="enough"):
        server.connect()
    assert output.stat().st_size == server_log.TAIL_BYTES
    assert output.read_bytes().endswith(b"the end")


def test_ports_have_room_above_them() -> None:
    ports = Ports.choose()
    assert ports.taken() == ()
    with socket.create_server(("127.0.0.1", ports.filer + GRPC_OFFSET)):
        assert ports.taken() == (ports.filer,)
        moved = ports.without(ports.taken())
    assert moved.filer != ports.filer
    assert replace(moved, filer=ports.filer) == ports


def test_a_port_that_just_closed_is_free() -> None:
    """Connections in TIME_WAIT would else make every restart move."""
    ports = Ports.choose()
    with socket.create_server(("127.0.0.1", ports.s3)) as listener:
        client = socket.create_connection(("127.0.0.1", ports.s3))
        accepted, _ = listener.accept()
        accepted.close()
        client.close()
    time.sleep(0.05)
    assert ports.taken() == ()
