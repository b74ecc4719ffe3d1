"""`retrain doctor --live-canary` whole: command line, HTTP, S3, and the real job, which ends its own pod."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.cli.attendance import demand_of
from launcher.cli.root import execute
from launcher.ending.unattended import require_proof
from launcher.naming import PodName
from launcher.settings import load_settings
from launcher.storage.s3 import S3Store
from tests.simulators.runpod import KeyRights, Pod, ProcessPod, Simulator, Timing

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
QUICK = Timing(provision=0.1, start=0.1, restart=0.2, grace=4.0)


@pytest.fixture
def cloud() -> Iterator[Simulator]:
    def workload(_: Pod) -> ProcessPod:
        return ProcessPod(extra={"RUNPOD_API_BASE_URL": made.serve()})

    with Simulator(timing=QUICK, workload=workload) as made:
        yield made


@pytest.fixture
def quick(place: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Short clocks; and no watchdog is left when the test is over."""
    for name, seconds in {"CREATE_LAG": 2, "POLL": 0.5, "LEASE": 10}.items():
        monkeypatch.setenv(f"RETRAIN_CLOCKS__{name}", str(seconds))
    monkeypatch.setattr("launcher.ending.canary_watch.PATIENCE_SECONDS", 12.0)
    yield
    for process in watchdogs(tmp_path):
        process.kill()


def watchdogs(folder: Path) -> list[psutil.Process]:
    """Find the watchdogs that were started in a folder; they are nobody's children any more."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if "--watch" in process.cmdline() and process.cwd() == str(folder):
                found.append(process)
    return found


def fly(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    code = execute(["doctor", "--live-canary", "--cap", "0.10", "--bill-wait", "0", "--json"])
    out, err = capsys.readouterr()
    found: dict[str, Any] = json.loads(out) if out else {}
    return code, found, err


@pytest.mark.parametrize(("rights", "api"), [(KeyRights.BOTH, "v2"), (KeyRights.GRAPHQL, "graphql")])
def test_the_real_job_ends_its_pod_and_a_detached_start_is_allowed(
    quick: None,
    cloud: Simulator,
    embedded_store: S3Store,
    capsys: pytest.CaptureFixture[str],
    rights: KeyRights,
    api: str,
) -> None:
    cloud.faults.conditions.pod_key_rights = rights
    code, found, err = fly(capsys)
    assert code == 0, err
    (pod,) = cloud.pods
    assert (pod.exists, pod.ended_by) == (False, "itself")
    assert found["ended_itself"] is True
    assert found["own_key"][api] is True
    assert set(found["seconds"]) == {"listed", "shown", "spoke", "last_word", "gone"}
    assert cloud.spent() <= found["charged_dollars"] < 0.10
    assert pod.key not in err + json.dumps(found)
    kept = json.loads(Path(".retrain/canary/mine.json").read_text())
    assert kept["run_id"] == found["run_id"]
    assert found["hints"]["runpod_dc_id"] == pod.data_center
    assert "canary" in require_proof(embedded_store, demand_of(load_settings()))


def test_a_key_that_ends_nothing_is_found_out_and_the_pod_is_ended(
    quick: None, cloud: Simulator, embedded_store: S3Store, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.faults.conditions.pod_key_rights = KeyRights.NOWHERE
    code, found, err = fly(capsys)
    assert code == 6, err
    assert found["ended_itself"] is False
    assert found["own_key"] == {"v2": False, "graphql": False}
    assert not cloud.existing
    assert execute(["run", "--detach", "--preset", "tinypunks"]) == 2
    assert "could not end itself" in capsys.readouterr().err


def until(true: Callable[[], object], seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.1)


def test_a_doctor_that_is_killed_leaves_a_pod_that_is_reaped(
    quick: None, cloud: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No watchdog, no job that ends anything: the deadline in the pod's name is all that is left."""
    cloud.faults.conditions.pod_key_rights = KeyRights.NOWHERE
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["doctor", "--live-canary", "--cap", "0.009"]  # about 30 seconds of the cheapest pod
    command = [sys.executable, "-m", "launcher.cli.root", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as doctor:
        until(lambda: cloud.existing, 60)
        for process in [*watchdogs(tmp_path), psutil.Process(doctor.pid)]:
            process.send_signal(signal.SIGKILL)
    (pod,) = cloud.existing
    name = PodName.parse(pod.name)
    assert name is not None
    assert execute(["reap", "--yes"]) == 0
    assert cloud.existing, "it was reaped before its time"
    until(lambda: cloud.now() > name.hard_deadline + timedelta(seconds=1), 120)
    assert execute(["reap", "--yes", "--wait", "60"]) == 0, capsys.readouterr()
    assert not cloud.existing
    assert cloud.spent() <= 0.009
