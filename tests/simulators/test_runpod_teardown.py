"""The real job in pods of the simulated RunPod, in real time and with no launcher at all: it ends its pod."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from job.contract import keys
from job.exits import ExitCode
from tests.job.bucket import SALT, Bucket
from tests.job.rig import Rig, Script
from tests.simulators.asking import rent
from tests.simulators.runpod import (
    KeyRights,
    Misfortune,
    Operation,
    Pod,
    ProcessPod,
    Simulator,
    Timing,
    Trouble,
)

pytestmark = pytest.mark.slow
QUICK = Timing(provision=0.1, start=0.1, restart=0.2, host_restart=0.2, grace=1.5)
BROKEN_SECONDS = 90
"""Limit of any wait: reached by a broken job alone."""
EXITS = {f"container exited with code {code}" for code in (143, 137)}
"""After SIGTERM and SIGKILL: no other end of a main process is meant to be."""
BROKEN_WORK = """
import os, sys
from job.__main__ import main

def work(variables, teardown):
    {does}

sys.exit(main(os.environ, work))
"""
HANGING_WORK = """
import os, sys, time
from job import lifecycle, root
from job.__main__ import main

def hang(world):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
        os.dup2(writing, 2)
    {does}
    sys.stderr.flush()

lifecycle.run = hang
sys.exit(main(os.environ, root.work))
"""


class Night:
    """An account, a bucket, a run in it, and a pod that does it."""

    def __init__(self, rig: Rig, command: list[str] | None = None, misfortune: Misfortune | None = None):
        self.rig = rig
        self._command = command
        self.cloud = Simulator(timing=QUICK, workload=self._workload)
        self.cloud.faults.every_pod = misfortune or Misfortune()
        self.base = self.cloud.serve()

    def begin(self, **changes: str) -> None:
        given = self.rig.publish()
        told = {name: given[name] for name in ("RETRAIN_MANIFEST_URL", "RETRAIN_DEADLINE")}
        environment = {**told, "RUNPOD_API_BASE_URL": self.base, **changes}
        head = {"Authorization": f"Bearer {self.cloud.account_key}", "User-Agent": "tests/1"}
        with httpx.Client(base_url=self.base, headers=head, trust_env=False) as api:
            rent(api, env=environment)

    @property
    def pod(self) -> Pod:
        return self.cloud.pods[0]

    @property
    def said(self) -> list[str]:
        return [line.text for line in list(self.pod.logs)]

    def until(self, true: Callable[[], object], what: str) -> None:
        ends = time.monotonic() + BROKEN_SECONDS
        while not true():
            assert time.monotonic() < ends, f"{what}: did not happen; {self.said}"
            exits = {text for text in self.said if text.startswith("container exited with code")}
            assert exits <= EXITS, f"the main process ended by itself: {self.said}"
            time.sleep(0.02)

    def until_gone(self) -> None:
        self.until(lambda: not self.pod.exists, "the pod's end")
        assert self.pod.ended_by == "itself"

    def asked(self) -> list[Operation]:
        ends = (Operation.DELETE, Operation.GRAPHQL_TERMINATE)
        return [record.operation for record in self.cloud.records if record.operation in ends]

    def hints(self, life: int = 1) -> dict[str, str]:
        (hinted,) = self.rig.said("hinted", life)
        found: dict[str, str] = hinted.hints
        return found

    def close(self) -> None:
        """End everything, and look for what must not be shown."""
        text = "\n".join(self.said) + str([event for life in (1, 2, 3) for event in self.rig.events(life)])
        key = self.pod.key
        self.cloud.close()
        assert key not in text and SALT not in text and "X-Amz" not in text

    def _workload(self, pod: Pod) -> ProcessPod:
        script = self.rig.folder / "script.json"
        script.write_text(json.dumps(asdict(self.rig.trainer.script)))
        job = [sys.executable, "-m", "tests.job.scripted_job", str(script)]
        return ProcessPod(command=self._command or job)


@contextmanager
def night(
    rig: Rig, command: list[str] | None = None, misfortune: Misfortune | None = None
) -> Iterator[Night]:
    made = Night(rig, command, misfortune)
    try:
        yield made
    except BaseException:
        made.cloud.close(check=False)
        raise
    made.close()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    made = Bucket()
    yield made
    made.close()


@pytest.fixture
def rig(bucket: Bucket, tmp_path: Path) -> Rig:
    (tmp_path / "scratch").mkdir()
    return Rig(bucket, tmp_path)


@pytest.mark.parametrize("rights", [KeyRights.BOTH, KeyRights.V2, KeyRights.GRAPHQL])
def test_a_finished_job_ends_its_pod(rig: Rig, rights: KeyRights) -> None:
    with night(rig, misfortune=Misfortune(key_rights=rights)) as run:
        run.begin()
        run.until_gone()
        assert len(rig.vouched()) == 3 and rig.said("finished")
        assert run.pod.life == 1, "the main process never ended by itself"
        assert "retrain job: ended: finished" in run.said
        sees = run.hints()
        assert (sees["own_key_v2"] == "sees its pod") == (rights is not KeyRights.GRAPHQL)
        assert (sees["own_key_graphql"] == "sees its pod") == (rights is not KeyRights.V2)


def test_a_pod_whose_key_is_accepted_nowhere_stays_and_asks(rig: Rig) -> None:
    with night(rig, misfortune=Misfortune(key_rights=KeyRights.NOWHERE)) as run:
        run.begin()
        run.until(lambda: len(run.asked()) >= 6, "asking again and again")
        assert run.asked()[:4] == [Operation.DELETE, Operation.GRAPHQL_TERMINATE] * 2
        assert rig.said("finished") and run.pod.exists and run.pod.life == 1
        run.pod.misfortune = Misfortune()
        run.until_gone()


def test_an_acknowledged_end_that_does_not_come_is_waited_for(rig: Rig) -> None:
    """The main process neither exits after a 204 nor at the SIGTERM that comes with its end."""
    with night(rig) as run:
        run.cloud.faults.conditions.end_lag_seconds = 3
        run.begin()
        run.until_gone()
        assert "container exited with code 143" not in run.said


def test_a_host_restart_in_the_middle_is_a_second_life_that_ends_the_pod(rig: Rig) -> None:
    hold = rig.folder / "go"
    rig.trainer.script = Script(pause_at=5, hold=str(hold))
    with night(rig) as run:
        run.begin()
        rig.bucket.wait_until(
            lambda: rig.receipt(keys.STATE_SLOTS[1]) or rig.receipt(keys.STATE_SLOTS[0]), what="a state"
        )
        run.cloud.host_restarts(run.pod.pod_id)
        rig.bucket.wait_until(lambda: rig.said("prepared", life=2), what="the second life")
        hold.touch()
        run.until_gone()
        assert rig.said("prepared", life=2)[0].resumed_epoch >= 1
        assert len(rig.vouched()) == 3 and rig.said("finished", life=2)
        assert run.hints(life=2) and run.pod.life == 2


def test_a_container_that_was_asked_to_go_goes_on_in_its_next_life(rig: Rig) -> None:
    """SIGTERM without the pod's end: exit 143, no last word, no request to end the pod."""
    hold = rig.folder / "go"
    rig.trainer.script = Script(pause_at=3, hold=str(hold))
    with night(rig) as run:
        run.begin()
        rig.bucket.wait_until(lambda: rig.receipt(keys.STATE_SLOTS[0]), what="a state")
        run.pod.workload.ask_to_end()
        run.until(lambda: "container exited with code 143" in run.said or run.asked(), "the exit")
        assert not run.asked() and not [event for event in rig.events() if event.terminal]
        hold.touch()
        run.until_gone()
        assert rig.said("finished", life=2)


def test_a_container_that_is_started_again_and_again_ends_its_pod(rig: Rig) -> None:
    rig.trainer.script = Script(hang_at=3)
    with night(rig) as run:
        run.begin()
        for life in keys.lives():
            rig.bucket.wait_until(partial(rig.said, "training_started", life), what=f"life {life}")
            assert not run.asked()
            run.cloud.host_restarts(run.pod.pod_id)
        run.until_gone()
        assert any("started more than" in text for text in run.said)


def test_a_life_after_the_last_word_only_ends_the_pod(rig: Rig) -> None:
    with night(rig, misfortune=Misfortune(key_rights=KeyRights.NOWHERE)) as run:
        run.begin()
        run.until(lambda: len(run.asked()) >= 2, "asking")
        asked = len(run.asked())
        run.cloud.host_restarts(run.pod.pod_id)
        run.until(lambda: len(run.asked()) >= asked + 2, "asking in the second life")
        assert not rig.events(life=2) and any("ended the attempt already" in text for text in run.said)


def test_stop_at_brings_home_what_there_is_and_ends_the_pod(rig: Rig) -> None:
    rig.trainer.script = Script(hang_at=3)
    rig.stop_in = 8
    with night(rig) as run:
        run.begin()
        run.until_gone()
        assert rig.said("failed")[0].reason == "stop_at" and len(rig.vouched()) == 1


def test_the_hard_deadline_ends_the_pod_whatever_hangs(rig: Rig) -> None:
    """The trainer ignores SIGTERM and every request for events hangs."""
    numbers = rig.folder / "numbers"
    rig.trainer.script = Script(hang_at=1, worker=str(numbers), deaf=True)
    rig.bucket.fault = lambda r: "hang" if "/events" in r.key else None
    rig.stop_in, rig.deadline_in = 7.9, 8
    with night(rig) as run:
        run.begin()
        run.until(lambda: numbers.exists() and numbers.read_text(), "the trainer's start")
        family = [int(number) for number in numbers.read_text().split()]
        run.until(run.asked, "the request for the end")
        run.until(lambda: not any(psutil.pid_exists(number) for number in family), "the trainer's end")
        run.until_gone()
        assert run.pod.life == 1 and "retrain job: the hard deadline has come" in run.said


@pytest.mark.parametrize("does", ["time.sleep(1000)", "os.read(os.pipe()[0], 1)", "sys.stderr.write('x')"])
def test_the_hard_deadline_holds_though_the_main_thread_hangs(rig: Rig, does: str) -> None:
    """It is the watchdog's own thread that asks. Nobody empties stderr, and its pipe is full."""
    rig.deadline_in, rig.stop_in = 4, 3
    with night(rig, [sys.executable, "-c", HANGING_WORK.format(does=does)]) as run:
        run.begin()
        run.until_gone()
        assert run.pod.life == 1


def test_a_deadline_that_has_passed_ends_the_pod_at_once(rig: Rig) -> None:
    with night(rig) as run:
        run.begin(RETRAIN_DEADLINE=(datetime.now(UTC) - timedelta(hours=1)).isoformat())
        run.until_gone()
        assert not rig.said("training_started") and run.pod.life == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RETRAIN_MANIFEST_URL": ""}, "RETRAIN_MANIFEST_URL is not set"),
        ({"RETRAIN_DEADLINE": "soon"}, "RETRAIN_DEADLINE is no ISO 8601 time"),
        ({"RETRAIN_MANIFEST_URL": "http://127.0.0.1:1/x"}, "the manifest cannot be fetched"),
    ],
)
def test_a_pod_that_cannot_start_ends_itself(rig: Rig, change: dict[str, str], words: str) -> None:
    rig.deadline_in, rig.stop_in = 5, 4
    with night(rig) as run:
        run.begin(**change)
        run.until_gone()
        late = "the hard deadline has come"  # a store that does not answer is given up at the same moment
        assert run.pod.life == 1 and any(words in text or late in text for text in run.said), run.said


def test_a_superseded_pod_ends_itself(rig: Rig) -> None:
    assert rig.run(RETRAIN_POD_ID="somebody-else") is ExitCode.FINISHED
    with night(rig) as run:
        run.begin()
        run.until_gone()
        assert run.pod.life == 1 and any("belongs to another pod" in text for text in run.said)


ACCIDENTS = (
    "raise MemoryError",
    "sys.exit(0)",
    "raise KeyboardInterrupt",
    "import no_such_library",
    "sys.stderr.close(); 1 / 0",
)


@pytest.mark.parametrize("does", ACCIDENTS)
def test_whatever_ends_the_main_thread_the_pod_is_ended(rig: Rig, does: str) -> None:
    with night(rig, [sys.executable, "-c", BROKEN_WORK.format(does=does)]) as run:
        run.begin()
        run.until_gone()
        assert run.pod.life == 1


def test_a_provider_that_is_down_is_outlived(rig: Rig) -> None:
    with night(rig) as run:
        run.cloud.trouble(Trouble.DISCONNECT, times=2, by_pods=True)
        run.cloud.trouble(Trouble.BAD_GATEWAY, times=3, by_pods=True)
        run.begin()
        run.until_gone()
