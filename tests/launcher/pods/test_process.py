"""Pods as real processes: started, found again by anyone, ended with everything they started."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from job.contract.manifest import POD_ID_VARIABLE
from launcher.errors import CreateRefused, PodError
from launcher.pods import process as module
from launcher.pods.process import ProcessPods
from launcher.ports import Offer, PodSpec

pytestmark = pytest.mark.slow

CHILD_THAT_IGNORES_SIGTERM = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "grandchild"], start_new_session=True)
open("ready" + str(len(sys.argv)), "w").close()
time.sleep(600)
"""


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[ProcessPods]:
    provider = ProcessPods(tmp_path / "pods", place="here", price_per_hour=0.1)
    yield provider
    for pod in provider.list():
        if pod.name.startswith("retrain-test-"):  # others may run real pods on this machine meanwhile
            provider.terminate(pod.pod_id)


def spec(name: str = "", **environment: str) -> PodSpec:
    name = name or f"retrain-test-{secrets.token_hex(4)}-1-1"
    return PodSpec(name=name, offer=Offer("this machine", 0.1), environment=environment)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen in 30 s"
        time.sleep(0.02)


def run_instead_of_the_job(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """The provider starts `python -m job`; a package of that name before ours takes its place."""
    package = folder / "stand-in" / "job"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(source)
    monkeypatch.setattr(module, "SOURCES", package.parent)


def test_a_pod_is_found_by_name_and_id_until_it_is_ended(
    pods: ProcessPods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead_of_the_job(monkeypatch, tmp_path, "import time; print('hello', flush=True); time.sleep(600)")
    pod = pods.create(spec())
    assert [found.pod_id for found in pods.find(pod.name)] == [pod.pod_id]
    other = ProcessPods(tmp_path / "pods", place="here", price_per_hour=0.1)  # another launcher
    again = other.get(pod.pod_id)
    assert again is not None and again.name == pod.name and again.price_per_hour == 0.1
    until(lambda: pods.logs(pod.pod_id) == ["hello"])
    assert other.terminate(pod.pod_id) is True
    assert pods.get(pod.pod_id) is None and pods.find(pod.name) == []
    assert pods.terminate(pod.pod_id) is True  # idempotent
    assert not (tmp_path / "pods" / pod.pod_id / "scratch").exists()


def test_what_ignores_sigterm_and_what_it_started_in_another_session_are_killed(
    pods: ProcessPods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TERM_SECONDS", 0.3)
    run_instead_of_the_job(monkeypatch, tmp_path, CHILD_THAT_IGNORES_SIGTERM)
    pod = pods.create(spec())
    folder = tmp_path / "pods" / pod.pod_id
    until(lambda: (folder / "ready1").exists() and (folder / "ready2").exists())
    mine = [p.pid for p in psutil.process_iter() if _belongs(p, pod.pod_id)]
    assert len(mine) == 2
    assert pods.terminate(pod.pod_id) is True
    assert not [pid for pid in mine if psutil.pid_exists(pid) and _belongs(psutil.Process(pid), pod.pod_id)]


def test_a_pod_whose_job_was_killed_but_whose_child_lives_still_exists(
    pods: ProcessPods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead_of_the_job(monkeypatch, tmp_path, CHILD_THAT_IGNORES_SIGTERM)
    pod = pods.create(spec())
    folder = tmp_path / "pods" / pod.pod_id
    until(lambda: (folder / "ready1").exists() and (folder / "ready2").exists())
    job = next(
        p for p in psutil.process_iter() if _belongs(p, pod.pod_id) and "grandchild" not in p.cmdline()
    )
    os.kill(job.pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(job.pid) or job.status() == psutil.STATUS_ZOMBIE)
    assert pods.get(pod.pod_id) is not None
    assert pods.terminate(pod.pod_id) is True and pods.get(pod.pod_id) is None


def test_a_pod_outlives_the_launcher_and_gets_no_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead_of_the_job(
        monkeypatch,
        tmp_path,
        "import os, time; open('environment', 'w').write(repr(dict(os.environ))); time.sleep(600)",
    )
    script = (
        "import sys; from pathlib import Path; from launcher.pods import process;"
        "process.SOURCES = Path(sys.argv[2]);"
        "from launcher.ports import Offer, PodSpec;"
        "pods = process.ProcessPods(Path(sys.argv[1]), place='here');"
        "pod = pods.create(PodSpec('retrain-test-x-1-1', Offer('o', 0), {'RETRAIN_X': '1'}));"
        "print(pod.pod_id, flush=True); import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "pods"), str(module.SOURCES)],
        env={**os.environ, "AWS_SECRET_ACCESS_KEY": "planted", "RUNPOD_API_KEY": "planted"},
        stdout=subprocess.PIPE,
        check=False,
    )
    pod_id = done.stdout.decode().strip()
    pods = ProcessPods(tmp_path / "pods", place="here", price_per_hour=0.1)
    assert done.returncode == -signal.SIGKILL and pods.get(pod_id) is not None
    written = tmp_path / "pods" / pod_id / "environment"
    until(lambda: written.exists() and written.read_text().endswith("}"))
    assert "planted" not in written.read_text() and "RETRAIN_X" in written.read_text()
    assert pods.terminate(pod_id)


def test_an_id_that_is_none_of_ours_is_refused(pods: ProcessPods) -> None:
    with pytest.raises(PodError, match="not the id"):
        pods.terminate("../../somewhere")


def test_a_pod_is_found_although_its_folder_was_deleted(
    pods: ProcessPods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead_of_the_job(monkeypatch, tmp_path, "import time; print('up', flush=True); time.sleep(600)")
    pod = pods.create(spec())
    # Python does not start in a folder that is gone.
    until(lambda: pods.logs(pod.pod_id) == ["up"])
    shutil.rmtree(tmp_path / "pods")
    assert [found.pod_id for found in pods.find(pod.name)] == [pod.pod_id]
    assert pods.terminate(pod.pod_id) is True and pods.find(pod.name) == []


def test_a_process_that_carries_no_pods_id_is_not_listed(pods: ProcessPods) -> None:
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, POD_ID_VARIABLE: "somebody-elses-000000000000"},
    )
    try:
        assert not [pod for pod in pods.list() if "somebody" in pod.pod_id]
    finally:
        stranger.kill()
        stranger.wait()


def test_a_name_that_is_no_pods_name_is_refused_before_anything_starts(pods: ProcessPods) -> None:
    with pytest.raises(CreateRefused, match="not the name"):
        pods.create(spec("../elsewhere"))


def _belongs(process: psutil.Process, pod_id: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(POD_ID_VARIABLE) == pod_id
    except (psutil.Error, OSError):
        return False
