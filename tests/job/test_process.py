"""The job as a container runs it: a process of its own, its children, signals, deadlines and what it
prints.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from job.contract import keys
from job.contract.recipe import Recipe
from job.exits import ExitCode
from tests.job.bucket import signature
from tests.job.rig import Rig, Script, ScriptedTrainer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
BROKEN_SECONDS = 60
"""Limit of any wait: reached by a broken job alone."""


@pytest.fixture
def hanging(rig: Rig) -> Iterator[tuple[Rig, "subprocess.Popen[bytes]", list[psutil.Process]]]:
    """A job whose trainer hangs in epoch 2, with a worker of its own; nothing of it outlives the test."""
    numbers = rig.folder / "numbers"
    script = Script(hang_at=3, worker=str(numbers))
    rig.trainer = ScriptedTrainer(script)
    job = rig.start()
    rig.bucket.wait_until(lambda: rig.receipt(keys.STATE_SLOTS[0]), what="the first state")
    children = [psutil.Process(int(number)) for number in numbers.read_text().split()]
    children += [child for child in psutil.Process(job.pid).children(recursive=True) if child not in children]
    yield rig, job, children
    for process in [*children, psutil.Process(job.pid)] if job.poll() is None else children:
        if process.is_running():
            process.kill()
    job.wait()


def all_gone(children: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(children, timeout=BROKEN_SECONDS)
    return not alive


Hanging = tuple[Rig, "subprocess.Popen[bytes]", list[psutil.Process]]


def test_sigkill_of_the_job_kills_its_children(hanging: Hanging) -> None:
    _, job, children = hanging
    assert len(children) >= 3, "leash, trainer and worker"
    job.kill()
    assert all_gone(children)


def test_sigterm_brings_home_what_is_there_and_leaves_the_attempt_open(hanging: Hanging) -> None:
    rig, job, children = hanging
    job.send_signal(signal.SIGTERM)
    assert job.wait(BROKEN_SECONDS) == ExitCode.TERMINATED
    assert all_gone(children)
    assert rig.vouched() == ["punk-000001.safetensors"]
    assert not [event for event in rig.events() if event.terminal]
    assert "SIGTERM" in rig.said("warning")[-1].message


def test_the_hard_deadline_kills_everything(rig: Rig) -> None:
    """The trainer ignores SIGTERM, and a slow store holds up every upload: nothing but the watchdog
    can end this.
    """
    numbers = rig.folder / "numbers"
    rig.trainer = ScriptedTrainer(Script(hang_at=1, worker=str(numbers), deaf=True))
    rig.bucket.fault = lambda r: "hang" if "/events" in r.key else None
    rig.stop_in, rig.deadline_in = 7.9, 8
    job = rig.start()
    rig.bucket.wait_until(lambda: numbers.exists() and numbers.read_text(), 60, "the trainer's start")
    children = psutil.Process(job.pid).children(recursive=True)
    out, _ = job.communicate(timeout=BROKEN_SECONDS)
    assert job.returncode == ExitCode.HARD_DEADLINE, out
    assert b"hard deadline" in out
    assert all_gone(children)


def test_a_deadline_is_armed_before_the_first_byte(rig: Rig) -> None:
    rig.deadline_in = 4
    rig.stop_in = 3
    rig.bucket.fault = lambda r: "hang"
    job = rig.start()
    assert job.wait(BROKEN_SECONDS) == ExitCode.HARD_DEADLINE
    job.communicate()


def test_nothing_secret_is_printed(rig: Rig) -> None:
    rig.recipe = Recipe(output_name="punk", max_epochs=1, save_every=1, lora_dim=4)
    job = rig.start(RUNPOD_API_KEY="rpa_planted_key_of_the_pod")
    out, _ = job.communicate(timeout=BROKEN_SECONDS)
    assert job.returncode == ExitCode.FINISHED
    assert out == b"retrain job: ended: finished\n"
    again = rig.start()
    out, _ = again.communicate(timeout=BROKEN_SECONDS)
    assert again.returncode == ExitCode.ALREADY_OVER and b"ended the attempt already" in out
    assert b"X-Amz" not in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RETRAIN_MANIFEST_URL": ""}, b"RETRAIN_MANIFEST_URL is not set"),
        ({"RETRAIN_MANIFEST_URL": "file:///etc/passwd"}, b"is not an http or https URL"),
        ({"RETRAIN_DEADLINE": "soon", "RETRAIN_POD_ID": ""}, b"no ISO 8601 time; neither"),
        ({"RETRAIN_DEADLINE": "2030-01-01T00:00:00"}, b"has no time zone"),
        ({"RETRAIN_MANIFEST_URL": "http://127.0.0.1:1/x?X-Amz-Signature=planted"}, b"hard deadline"),
    ],
)
def test_a_bad_environment_is_one_sentence(change: dict[str, str], words: bytes) -> None:
    good = {
        "RETRAIN_MANIFEST_URL": "http://127.0.0.1:1/manifest",
        "RETRAIN_DEADLINE": "2020-01-01T00:00:00Z",
        "RETRAIN_POD_ID": "pod",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "job"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | good | change,
        capture_output=True,
        timeout=BROKEN_SECONDS,
    )
    expected = ExitCode.HARD_DEADLINE if words == b"hard deadline" else ExitCode.NOT_STARTED
    assert ended.returncode == expected
    assert words in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert b"planted" not in ended.stderr and not ended.stdout


def test_a_refused_manifest_shows_no_link(rig: Rig) -> None:
    rig.bucket.fault = lambda r: "403"
    job = rig.start()
    out, _ = job.communicate(timeout=BROKEN_SECONDS)
    assert job.returncode == ExitCode.NOT_STARTED
    assert b"HTTP 403" in out and len(out.splitlines()) == 1
    assert signature("GET", keys.manifest_key("run-1", 1)).encode() not in out and b"127.0.0.1" not in out
