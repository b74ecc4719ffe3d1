"""The layers that need neither launcher nor job: rented pods that do nothing, and everyone else is killed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launcher.errors import Exit
from launcher.journal import Journal
from launcher.naming import PodName
from tests.launcher.world import RUN, FakeWorld
from tests.rehearsal.night import SETTINGS, Night, night
from tests.simulators.runpod import Inert, Pod

pytestmark = pytest.mark.slow

RUN_SECONDS = 45.0
"""For a whole run."""
LATE_SECONDS = 40.0
"""After the deadline, on a busy machine."""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Night]:
    with night(tmp_path, workload=Inert) as stage:
        yield stage
        assert stage.simulator.touched_strangers == [] and stage.stranger.exists


def until(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen in {seconds:.0f} s"
        time.sleep(0.1)


def rented(stage: Night) -> tuple[Pod, PodName]:
    """Put a short run on record, let a launcher rent its pod, kill the launcher, and return the pod."""
    record = FakeWorld(stage.folder / "fakes").record(max_seconds=RUN_SECONDS, reserve_seconds=5.0)
    asked = {"provider": "runpod", "namespace": SETTINGS["RUN__NAMESPACE"], "image": SETTINGS["POD__IMAGE"]}
    spec = record.spec.model_copy(update={**asked, "disk_gb": 20})
    record = record.model_copy(update={"spec": spec, "created_at": stage.store.now()})
    journal = Journal(stage.store, "nobody")
    journal.release(journal.create(record))
    launcher = stage.start("attach", RUN)
    until(lambda: stage.simulator.existing or launcher.ended(), 120)
    launcher.kill()
    assert stage.simulator.existing, launcher.said.decode()
    (pod,) = stage.simulator.existing
    name = PodName.parse(pod.name)
    assert name is not None
    return pod, name


def watchdogs(stage: Night) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if "--watch" in process.cmdline() and process.cwd() == str(stage.folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_the_watchdog_ends_the_pod_when_launcher_and_job_do_not(stage: Night) -> None:
    pod, name = rented(stage)
    assert len(watchdogs(stage)) == 1
    ends_in = (name.hard_deadline - stage.simulator.now()).total_seconds()
    until(lambda: not stage.simulator.existing, ends_in + LATE_SECONDS)
    assert pod.ended_at is not None
    assert 0 <= (pod.ended_at - name.hard_deadline).total_seconds() + 1 < LATE_SECONDS
    # Whoever comes next finds a pod that is gone, closes the run and dismisses the watchdog.
    attach = stage.start("attach", RUN)
    assert attach.wait() not in (Exit.DONE, Exit.LEAKED), attach.said.decode()
    assert watchdogs(stage) == []
    said = b"".join(command.said for command in stage.commands).decode()
    said += "".join(path.read_text() for path in stage.folder.rglob(".retrain/watchdogs/*.log"))
    assert not [what for what, secret in stage.secrets.items() if secret in said]


def test_reap_ends_the_pod_when_nobody_else_is_left(stage: Night) -> None:
    pod, name = rented(stage)
    for process in watchdogs(stage):
        process.kill()
    early = stage.start("reap", "--yes")
    assert early.wait() == Exit.DONE, early.said.decode()
    if stage.simulator.now() < name.hard_deadline:
        assert stage.simulator.existing == [pod]
    until(lambda: stage.simulator.now() > name.hard_deadline, 120)
    assert stage.start("reap").wait() == Exit.LEAKED and stage.simulator.existing == [pod]
    late = stage.start("reap", "--yes")
    assert late.wait() == Exit.DONE and stage.simulator.existing == [], late.said.decode()
    assert stage.start("reap").wait() == Exit.DONE
