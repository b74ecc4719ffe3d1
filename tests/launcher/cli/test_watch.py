"""The detached watchdog as a process: it outlives who started it, and nobody reads a secret off it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from launcher.cli.watch import dismiss_watchdog, environment, guard
from launcher.machine.processes import ProcessIdentity
from launcher.model import Phase
from launcher.settings import load_settings
from tests.fakes.pods import Notes
from tests.launcher.world import FakeWorld
from tests.simulators.runpod import Simulator

pytestmark = pytest.mark.slow

SECONDS = 8
"""From the launcher's start to the hard deadline."""
LAUNCHER = """
import os, signal, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from launcher.cli.narrator import Narrator
from launcher.cli.providers import pods_of
from launcher.cli.watch import guard
from launcher.naming import PodName
from launcher.ports import Offer, PodSpec
from launcher.settings import load_settings
from tests.launcher.world import FakeWorld

seconds = float(sys.argv[1])
settings = load_settings()
pods = pods_of(settings)
record = FakeWorld(Path("fakes")).record(max_seconds=seconds)
record = record.model_copy(update={"created_at": datetime.now(UTC)})
name = PodName(record.spec.namespace, record.run_id, 1, record.created_at + timedelta(seconds=seconds))
pods.create(PodSpec(str(name), Offer("NVIDIA A40", 1.0, "SECURE"), {}, image="image", disk_gb=20))
narrator = Narrator()
guard(settings, record, narrator)
guard(settings, record, narrator)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Simulator]:
    with Simulator() as simulator:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("RUNPOD_API_BASE_URL", simulator.serve())
        monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
        monkeypatch.setenv("RETRAIN_RUN__PROVIDER", "runpod")
        monkeypatch.setenv("RETRAIN_RUNPOD__API_KEY", simulator.account_key)
        monkeypatch.setenv("RETRAIN_CLOCKS__CREATE_LAG", "1")  # reaches the watchdog, or it waits two minutes
        yield simulator


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Callable[[], list[psutil.Process]]]:
    """Find the watchdogs of this test; whatever is left of them is ended."""

    def find() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if "--watch" in process.cmdline() and process.cwd() == str(tmp_path):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    yield find
    for process in find():
        process.kill()


def until(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen in {seconds:.0f} s"
        time.sleep(0.05)


def test_it_outlives_the_launcher_and_ends_the_pod_at_its_deadline(
    cloud: Simulator, watching: Callable[[], list[psutil.Process]], tmp_path: Path
) -> None:
    stranger = cloud.add_stranger("notebook")
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, str(SECONDS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL and done.stderr.count("a watchdog, process") == 1, done.stderr
    (process,) = watching()
    assert os.getsid(process.pid) == process.pid  # no terminal's end reaches it
    log = tmp_path / ".retrain" / "watchdogs" / "run-1.log"
    until(lambda: "watching over run run-1" in log.read_text())
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGHUP)
    (pod,) = cloud.existing
    until(lambda: not cloud.existing)
    assert pod.ended_at is not None and stranger.exists and cloud.touched_strangers == []
    assert int(pod.ended_at.timestamp()) >= int(pod.name.rpartition("-")[2])
    until(lambda: "confirmed gone" in log.read_text())
    assert process.is_running() and watching() == [process]
    everything = [done.stdout, done.stderr, log.read_text(), *process.cmdline()]
    assert not [text for text in everything if cloud.account_key in text]


def test_once_it_ended_another_can_be_started(
    cloud: Simulator, watching: Callable[[], list[psutil.Process]]
) -> None:
    for _ in range(2):
        subprocess.run([sys.executable, "-c", LAUNCHER, "3600"], capture_output=True, check=False)
        (process,) = watching()
        process.kill()
        until(lambda: not watching())
    assert len(cloud.existing) == 2


def test_one_that_dies_at_its_start_is_not_announced(
    cloud: Simulator, watching: Callable[[], list[psutil.Process]], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, record = Notes(), FakeWorld(Path("fakes")).record()
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # its interpreter does not even begin
    guard(load_settings(), record, notes)
    (line,) = notes.lines
    assert "NO WATCHDOG" in line and "exit code 1" in line and "run-1.log" in line and watching() == []
    monkeypatch.delenv("PYTHONHOME")
    guard(load_settings(), record, notes)
    assert "a watchdog, process" in notes.lines[-1] and len(watching()) == 1


def test_one_that_gives_no_sign_is_not_announced(
    cloud: Simulator, watching: Callable[[], list[psutil.Process]], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, record = Notes(), FakeWorld(Path("fakes")).record()
    monkeypatch.setattr("launcher.cli.watch.START_SECONDS", 0.0)
    guard(load_settings(), record, notes)
    assert "NO WATCHDOG" in notes.lines[0] and "no sign within 0 s" in notes.lines[0]


def test_it_is_dismissed_when_the_run_is_closed(
    cloud: Simulator, watching: Callable[[], list[psutil.Process]], tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", LAUNCHER, "3600"], capture_output=True, check=False)
    assert len(watching()) == 1
    settings = load_settings()
    record = FakeWorld(tmp_path / "fakes").record().model_copy(update={"phase": Phase.DONE})
    guard(settings, record, Notes())
    assert watching() == [] and not list((tmp_path / ".retrain" / "watchdogs").glob("*.lock"))
    guard(settings, record, Notes())  # there is none any more


def test_a_note_of_another_process_ends_nobody(cloud: Simulator, tmp_path: Path) -> None:
    """A number that is used again after a reboot is somebody else's process."""
    settings = load_settings()
    folder = tmp_path / ".retrain" / "watchdogs"
    folder.mkdir(parents=True)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        identity = replace(ProcessIdentity.of(bystander.pid), boot_id="another boot")
        (folder / "run-1.lock").write_text(json.dumps(identity.to_json()))
        dismiss_watchdog(settings, "run-1")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_its_settings_are_those_of_the_command_that_started_it(
    cloud: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "retrain.toml").write_text(
        '[storage]\nbucket = "b-1"\nprefix = "p/"\n[run]\nnamespace = "toml"'
    )
    flags = {
        "run": {"namespace": "flags"},
        "runpod": {"data_centers": "EU-RO-1, EU-SE-1", "require_balance": "false"},
        "storage": {"access_key": "k", "secret_key": "planted"},
    }
    settings = load_settings(None, flags)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    there = load_settings(Path(os.devnull))
    assert (there.storage, there.runpod, there.docker) == (settings.storage, settings.runpod, settings.docker)
    assert there.clocks.create_lag == settings.clocks.create_lag == 1
    assert there.run.workspace == settings.run.workspace.resolve()
    assert (there.run.namespace, there.run.provider) == ("flags", settings.run.provider)


def test_a_run_whose_pods_are_on_one_machine_gets_none(
    cloud: Simulator, watching: Callable[[], list[psutil.Process]], tmp_path: Path
) -> None:
    record = FakeWorld(tmp_path / "fakes").record()
    near = record.model_copy(update={"spec": record.spec.model_copy(update={"place": "this one"})})
    guard(load_settings(), near, Notes())
    assert watching() == []
