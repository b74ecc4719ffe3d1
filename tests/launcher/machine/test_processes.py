"""A process is more than its number."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.machine import processes
from launcher.machine.processes import ProcessIdentity


def test_this_process_is_alive_and_survives_json() -> None:
    me = ProcessIdentity.current()
    assert me.is_alive()
    assert ProcessIdentity.from_json(json.loads(json.dumps(me.to_json()))) == me


def test_a_number_that_is_used_again_is_another_process() -> None:
    me = ProcessIdentity.current()
    assert not replace(me, started=me.started - 1).is_alive()


def test_nothing_survives_a_reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    me = ProcessIdentity.current()
    monkeypatch.setattr(processes, "boot_id", lambda: "another boot")
    assert not me.is_alive()


def test_a_process_of_another_container_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    me = ProcessIdentity.current()
    assert me.could_be_seen_here()
    monkeypatch.setattr(processes, "pid_namespace", lambda: me.pid_namespace + 1)
    assert not me.could_be_seen_here()
    assert me.is_alive(), "nothing proves its end"
    assert ProcessIdentity.current() != me


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare of util-linux")
def test_a_process_in_a_namespace_of_its_own_proves_nothing_about_this_one() -> None:
    ask = (
        "import json, sys; from launcher.machine.processes import ProcessIdentity;"
        "print(ProcessIdentity.from_json(json.loads(sys.argv[1])).could_be_seen_here())"
    )
    command = [sys.executable, "-c", ask, json.dumps(ProcessIdentity.current().to_json())]
    answer = subprocess.run(
        ["unshare", "-Urpf", "--mount-proc", *command], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0 and "unshare" in answer.stderr:
        pytest.skip(answer.stderr)
    assert answer.stdout.strip() == "False", answer.stderr


def test_a_system_without_namespaces_has_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "_PID_NAMESPACE", tmp_path / "nothing")
    assert processes.pid_namespace() == 0
    assert ProcessIdentity.current().is_alive()


def test_a_process_that_ended_but_was_not_waited_for_is_dead() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=-1
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        identity = ProcessIdentity.of(child.pid)
        assert identity.is_alive()
        child.send_signal(signal.SIGKILL)
        child.stdout.read()
        # Closing its output is not yet being dead, but nearly.
        for _ in range(1000):
            if not identity.is_alive():
                break
        assert not identity.is_alive()
        assert child.returncode is None
    assert not identity.is_alive()


def test_no_process_has_no_identity() -> None:
    with pytest.raises(ProcessLookupError):
        ProcessIdentity.of(2**22 + 1)


def test_a_name_with_brackets_does_not_confuse_it() -> None:
    # /proc/<pid>/stat puts the name in brackets, unescaped.
    rename = (
        "import ctypes; ctypes.CDLL(None).prctl(15, b'a) Z (b 1', 0, 0, 0); print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", rename], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None and child.stdin is not None
        before = ProcessIdentity.of(child.pid)
        child.stdout.readline()
        assert ProcessIdentity.of(child.pid) == before
        assert before.is_alive()
        child.stdin.write(b"\n")


@pytest.mark.parametrize(
    "fields",
    [{}, {"pid": 1}, {"pid": 1, "started": 1.0, "boot_id": ""}, {"pid": "x", "started": 1, "boot_id": ""}],
)
def test_other_json_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        ProcessIdentity.from_json(fields)
