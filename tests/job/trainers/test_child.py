"""The real child process: reports on stdout alone, troubles with a reason, quick to end."""

import signal
import subprocess
from pathlib import Path

import pytest

from job.contract.reasons import Reason
from job.contract.recipe import Recipe
from job.trainers.base import Report, Saved, Started, StateSaved, Stepped, TrainingTask, Trouble
from job.trainers.diffusers import DiffusersTrainer
from tests.job.trainers.recipes import small

pytestmark = pytest.mark.slow


def run(task: TrainingTask) -> tuple[int, list[Report]]:
    trainer = DiffusersTrainer()
    command = trainer.command(task)
    environment = {**command.environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command.argv, env=environment, capture_output=True, text=True, check=False)
    reader = trainer.reader(task)
    lines = done.stdout.splitlines()
    reports = [report for line in lines for report in reader.feed(line)]
    assert len(reports) == len(lines), done.stdout
    return done.returncode, reports


def task(base: Path, data: Path, out: Path, recipe: Recipe) -> TrainingTask:
    return TrainingTask(recipe, data, base, out)


def test_it_trains(base: Path, data: Path, tmp_path: Path) -> None:
    code, reports = run(task(base, data, tmp_path / "out", small(max_epochs=1)))
    assert code == 0
    assert [type(report) for report in reports] == [Started, Stepped, Stepped, Stepped, Saved, StateSaved]


def test_a_trouble_has_a_reason(base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "data/10_empty").mkdir(parents=True)
    code, reports = run(task(base, tmp_path / "data", tmp_path / "out", small()))
    assert code == 1
    assert reports == [Trouble(Reason.BAD_DATASET, "no image in 10_empty")]


def test_sigterm_ends_it_at_once(base: Path, data: Path, tmp_path: Path) -> None:
    command = DiffusersTrainer().command(task(base, data, tmp_path / "out", small(max_epochs=5000)))
    environment = {**command.environment, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command.argv, env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        while b'"step"' not in child.stdout.readline():
            pass
        child.send_signal(signal.SIGTERM)
        assert child.wait(5) == -signal.SIGTERM
