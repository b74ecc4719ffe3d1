"""The pipe between parent and child: the command, the task file, the lines."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import job
from job.contract.reasons import Reason
from job.trainers.base import (
    Remark,
    Report,
    ResumeFrom,
    Saved,
    Started,
    StateSaved,
    Stepped,
    Trainer,
    TrainingTask,
    Trouble,
)
from job.trainers.diffusers import DiffusersTrainer
from job.trainers.embedded.environment import child_environment
from job.trainers.embedded.task import read_task
from job.trainers.embedded.wire import decode, encode
from tests.job.trainers.recipes import small

REPORTS = [
    Started(30, 3, 10, first_step=6),
    Stepped(7, 2, 0.125),
    Saved(Path("out/lora-000002.safetensors"), 2, 6),
    StateSaved(Path("out/state-000002"), 2, 6),
    Remark("trains in fp32"),
    Trouble(Reason.NAN_LOSS, "the loss became nan at step 7"),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_a_report_survives_the_pipe(report: Report) -> None:
    line = encode(report)
    assert "\n" not in line
    assert decode(line) == report


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Loading weights: 100%",
        "[]",
        "3",
        '"step"',
        "{}",
        '{"kind": "step"}',
        '{"kind": ["step"]}',
        '{"kind": "step", "step": "x", "epoch": 1, "loss": 1}',
        '{"kind": "trouble", "reason": "boredom", "message": ""}',
        "[" * 100_000,
    ],
)
def test_a_line_that_says_nothing_is_passed_over(line: str) -> None:
    reader = DiffusersTrainer().reader(TrainingTask(small(), Path(), Path(), Path()))
    assert list(reader.feed(line)) == []


@given(st.text())
def test_no_line_breaks_the_reader(line: str) -> None:
    assert decode(line) is None or isinstance(json.loads(line), dict)


def test_the_child_gets_the_whole_task(tmp_path: Path) -> None:
    trainer: Trainer = DiffusersTrainer()
    task = TrainingTask(
        recipe=small(min_snr_gamma=5, output_name="punks"),
        data_dir=tmp_path / "data",
        base_model=tmp_path / "base",
        output_dir=tmp_path / "new" / "out",
        init_weights=tmp_path / "start.safetensors",
        resume=ResumeFrom(tmp_path / "state-000002", 2, 6),
        state_every_seconds=12.5,
    )
    command = trainer.command(task)
    assert command.argv[:3] == (sys.executable, "-m", "job.trainers.embedded")
    assert read_task(Path(command.argv[3])) == task
    assert not list(task.output_dir.glob("*.safetensors"))


def test_the_child_inherits_no_secret() -> None:
    parent = {
        "AWS_SECRET_ACCESS_KEY": "s",
        "RUNPOD_API_KEY": "s",
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": "/more",
    }
    found = child_environment(parent)
    assert "s" not in found.values()
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["HF_HUB_OFFLINE"] == "1"
    assert found["PYTHONPATH"].split(":") == [str(Path(job.__file__).parent.parent), "/more"]
