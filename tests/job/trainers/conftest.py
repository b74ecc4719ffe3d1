"""One tiny base and dataset for all tests here: making them costs seconds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from job.contract.recipe import Recipe
from job.trainers.base import Report, TrainingTask


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from tests.job.trainers.tiny import write_base

    torch.set_num_threads(1)  # two cores are shared with other tests
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.job.trainers.tiny import write_dataset

    return write_dataset(tmp_path_factory.mktemp("data"))


@dataclass
class Trained:
    task: TrainingTask
    reports: list[Report] = field(default_factory=list)

    def of(self, kind: type) -> list[Any]:
        return [report for report in self.reports if isinstance(report, kind)]


Train = Callable[..., Trained]


@pytest.fixture
def train(base: Path, data: Path, tmp_path: Path) -> Train:
    """Train in this process; keyword arguments are the task's."""
    from job.trainers.embedded import training
    from job.trainers.embedded.dataset import read_dataset

    def run(recipe: Recipe, *, output: str = "out", **task: Any) -> Trained:
        values = {"data_dir": data, "base_model": base, "output_dir": tmp_path / output} | task
        trained = Trained(TrainingTask(recipe, **values))
        trained.task.output_dir.mkdir(exist_ok=True)
        dataset = read_dataset(trained.task.data_dir, recipe)
        training.train(trained.task, dataset, trained.reports.append)
        return trained

    return run
