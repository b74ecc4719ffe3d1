"""Starting the local store when much else happens: many commands at once, kills, ports that others have."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from launcher.errors import RetrainError, StorageError, UsageError
from launcher.machine.processes import ProcessIdentity
from launcher.storage import daemons, local_ports, weed
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.launching import Launch
from launcher.storage.local_ports import Ports
from launcher.storage.s3 import S3Store
from tests.launcher.storage.servers import CONNECT, kill, pids, recorded, rerecord

KILLED_AFTER_SECONDS = (1.2, 2.5)
"""Of a start that takes two to three: before the process is made, before and after it is written down."""


@pytest.mark.slow
def test_ten_commands_at_once_start_one(server: EmbeddedServer) -> None:
    command = [sys.executable, "-c", CONNECT, str(server.folder)]
    starters = [subprocess.Popen(command, stdout=-1, text=True) for _ in range(10)]
    answers = {starter.communicate(timeout=120)[0].strip() for starter in starters}
    assert [starter.returncode for starter in starters] == [0] * 10
    assert answers == {server.connect().endpoint_url}
    assert len(pids(server)) == 1


@pytest.mark.slow
def test_whoever_is_killed_while_it_starts_leaves_one_that_works(server: EmbeddedServer) -> None:
    command = [sys.executable, "-c", CONNECT, str(server.folder)]
    for seconds in KILLED_AFTER_SECONDS:
        starter = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        starter.kill()
        starter.wait()
        config = server.connect()
        S3Store(config).put(f"after/{seconds}", b"works")
        assert len(pids(server)) == 1
        kill(server)
    assert len(S3Store(server.connect()).list("after/")) == len(KILLED_AFTER_SECONDS)


@pytest.mark.slow
def test_what_is_on_record_of_the_process_may_be_stale(server: EmbeddedServer) -> None:
    config = server.connect()
    S3Store(config).put("key", b"data")
    # The number belongs to this very test by now: taken for the server, it would be ended.
    mine = ProcessIdentity.current().to_json()

    def record(process: dict[str, Any] | None) -> None:
        rerecord(server, lambda fields: fields.update(process=process))

    for stale in ({**mine, "boot_id": "of an earlier boot"}, mine, None):
        kill(server)
        record(stale)
        assert not server.is_running()
        assert server.connect() == config
        assert S3Store(config).get("key")[0] == b"data"
    record(mine)
    assert server.stop()
    assert not server.is_running()


class _Promiscuous(BaseHTTPRequestHandler):
    """An S3 server to whom every key and signature is right, as far as a start asks it."""

    def _yes(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_HEAD = _yes  # noqa: N815 (the base class looks them up by these names)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Stay silent."""


@pytest.mark.slow
def test_a_port_taken_between_choice_and_bind_is_given_up(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a program that answers S3 requests, too: it must not be taken for the store."""
    strangers: list[HTTPServer] = []
    start = weed.start

    def too_late(*args: Any, **keywords: Any) -> Any:
        if not strangers:
            strangers.append(HTTPServer(("127.0.0.1", args[3].s3), _Promiscuous))
            Thread(target=strangers[0].serve_forever, daemon=True).start()
        return start(*args, **keywords)

    monkeypatch.setattr(weed, "start", too_late)
    try:
        config = server.connect()
        stranger = strangers[0].server_address[1]
        assert config.endpoint_url != f"http://127.0.0.1:{stranger}"
        S3Store(config).put("key", b"data")
        (pid,) = pids(server)
        assert daemons.listens(pid, recorded(server)["ports"]["s3"])
    finally:
        strangers[0].shutdown()
        strangers[0].server_close()


@pytest.mark.slow
def test_a_kept_port_that_an_s3_server_has_now_is_given_up(server: EmbeddedServer) -> None:
    config = server.connect()
    S3Store(config).put("key", b"data")
    kill(server)
    with HTTPServer(("127.0.0.1", recorded(server)["ports"]["s3"]), _Promiscuous) as stranger:
        Thread(target=stranger.serve_forever, daemon=True).start()
        moved = server.connect()
        assert moved.endpoint_url != config.endpoint_url
        assert S3Store(moved).get("key")[0] == b"data"
        stranger.shutdown()


def test_no_free_port_is_a_sentence(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ports, "_PORTS", range(21_000, 21_001))
    with socket.create_server(("127.0.0.1", 21_000)), pytest.raises(UsageError) as caught:
        server.connect()
    assert "ports between 21000 and 21001" in str(caught.value)
    assert "ss -ltnp" in caught.value.next_step
    assert not server.is_running()


def test_it_gives_up_when_it_ends_again_and_again(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Path] = []
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        monkeypatch.setattr(Ports, "taken", lambda self: (port,))
        monkeypatch.setattr(Ports, "without", lambda self, taken: self)

        def arguments(binary: Path, *_: object) -> list[str]:
            starts.append(binary)
            return [sys.executable, "-c", "print('E1122 port taken')"]

        monkeypatch.setattr(weed, "arguments", arguments)
        with pytest.raises(StorageError, match=r"ended as it started\.\nE1122 port taken"):
            server.connect()
    assert 1 < len(starts) < 10


@pytest.mark.slow
def test_one_that_hangs_half_started_is_replaced(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.connect()
    (pid,) = pids(server)
    rerecord(server, lambda fields: fields.update(ready=False))
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr("launcher.storage.launching.START_SECONDS", 4.0)
    monkeypatch.setattr("launcher.storage.local_bucket.ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("launcher.storage.launching.Launch.launched", launched_unhurried())
    assert server.connect() == config
    assert pids(server) != (pid,)
    assert not psutil.pid_exists(pid)


def launched_unhurried() -> Any:
    launched = Launch.launched

    def unhurried(self: Launch, state: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("launcher.storage.launching.START_SECONDS", 30.0)
            return launched(self, state)

    return unhurried


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 512, b'{"access_key": 1', b"[]", b"null", b"\xff"])
def test_a_record_that_is_garbage_stops_no_stranger_and_says_what_to_do(
    server: EmbeddedServer, content: bytes
) -> None:
    server.folder.mkdir()
    path = server.folder / "server.json"
    path.write_bytes(content)
    for action in (server.connect, server.is_running, server.stop):
        with pytest.raises(RetrainError) as caught:
            action()
        assert str(path) in str(caught.value)
        assert f"delete {path}" in caught.value.next_step
    assert path.read_bytes() == content


@pytest.mark.slow
def test_a_record_that_was_deleted_is_made_again_and_the_data_stays(server: EmbeddedServer) -> None:
    S3Store(server.connect()).put("key", b"data")
    (pid,) = pids(server)
    (server.folder / "server.json").unlink()
    assert S3Store(server.connect()).get("key")[0] == b"data"
    assert pids(server) != (pid,), "nobody knows the keys of the old one"


@pytest.mark.slow
def test_a_record_of_the_version_before_is_read(server: EmbeddedServer) -> None:
    config = server.connect()
    server.stop()

    def older(fields: dict[str, Any]) -> None:
        fields["ports"]["admin"] = 12_345
        del fields["folder"]

    rerecord(server, older)
    assert server.connect() == config
    assert json.loads((server.folder / "server.json").read_bytes())["folder"] == str(server.folder)
    assert replace(config, folder=None) != config
