"""`retrain doctor`: the local store's states reach the person, and none of them makes it hang or crash."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.root import execute
from launcher.storage.embedded import EmbeddedServer
from tests.launcher.storage.servers import clean, pids


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    monkeypatch.chdir(tmp_path)
    server = EmbeddedServer(tmp_path / ".retrain" / "store")
    yield server
    clean(server)


def doctor(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    code = execute(["doctor", "--json"])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, {item["check"]: item for item in json.loads(out)}


@pytest.mark.slow
def test_it_tells_how_the_store_was_before_it_was_asked(
    server: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code, findings = doctor(capsys)
    assert code == 0
    assert "not running" in findings["local store"]["detail"]
    assert findings["storage, reachable"]["ok"]
    assert not server.is_running()


@pytest.mark.slow
def test_a_store_that_hangs_does_not_make_it_hang(
    server: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.connect()
    (pid,) = pids(server)
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    code, findings = doctor(capsys)
    assert time.monotonic() - started < 30
    assert code == 6
    assert str(pid) in findings["local store"]["fix"]
    assert "storage, reachable" not in findings


def test_a_record_that_cannot_be_read_is_told(
    server: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.folder.mkdir(parents=True)
    (server.folder / "server.json").write_text("garbage")
    code, findings = doctor(capsys)
    assert code == 6
    assert "server.json" in findings["local store"]["detail"]


def test_a_workspace_that_cannot_be_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".retrain").write_text("a file where a folder should be")
    code, findings = doctor(capsys)
    assert code == 6
    assert [item for item in findings.values() if item["ok"] is False and item["fix"]]
