"""Drawing: the plan's images, by LoRA, resumable, the same every time."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from job.contract.manifest import EvaluationPlan, SamplePrompt
from job.contract.reasons import Reason
from job.evaluate.drawing import (
    Canvas,
    Drawn,
    DrawTask,
    EpochDrawn,
    decode_task,
    draw_command,
    encode_drawn,
    encode_task,
    parse,
)
from job.trainers.base import Remark, Trouble
from job.trainers.embedded.wire import encode
from tests.job.trainers.recipes import small

NAMES = ("a", "b", "c")


def plan(**changes: Any) -> EvaluationPlan:
    prompts = tuple(SamplePrompt(name=name, prompt="punk, red hat", seed=ord(name)) for name in NAMES)
    return EvaluationPlan(**({"prompts": prompts, "inference_steps": 4, "batch_size": 2} | changes))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from tests.job.trainers.tiny import write_base

    torch.set_num_threads(1)
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A LoRA with weights large enough to be seen."""
    import torch
    from safetensors.torch import save_file

    from job.trainers.embedded.base_model import load_base
    from job.trainers.embedded.lora import LoraNetwork

    model = load_base(base)
    torch.manual_seed(5)
    tensors = LoraNetwork(model.unet, model.text_encoder, rank=4, alpha=4, dropout=0).tensors(torch.float32)
    path = tmp_path_factory.mktemp("lora") / "lora-000002.safetensors"
    save_file({k: torch.randn_like(v) * 0.3 if "lora_up" in k else v for k, v in tensors.items()}, path)
    return path


def drawn(base: Path, *canvases: Canvas, **changes: Any) -> list[Drawn | EpochDrawn]:
    from job.evaluate.draw.artist import draw

    said: list[Drawn | EpochDrawn] = []
    draw(DrawTask(small(), base, plan(**changes), canvases), said.append)
    return said


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("report", [Drawn(2, "a"), EpochDrawn(2, 3, 1.5)])
def test_a_report_survives_the_pipe(report: Drawn | EpochDrawn) -> None:
    assert parse(encode_drawn(report)) == report


@pytest.mark.parametrize("report", [Remark("slow"), Trouble(Reason.BAD_BASE_MODEL, "no base")])
def test_remarks_and_troubles_come_through(report: Remark | Trouble) -> None:
    assert parse(encode(report)) == report


@pytest.mark.parametrize("line", ["", "50%|#", "[]", "{}", '{"kind": "drawn"}', '{"kind": "step"}'])
def test_other_lines_are_passed_over(line: str) -> None:
    assert parse(line) is None


def test_the_task_survives_its_file(tmp_path: Path) -> None:
    canvases = (Canvas(0, None, tmp_path / "0"), Canvas(2, tmp_path / "l.safetensors", tmp_path / "2"))
    task = DrawTask(small(), tmp_path / "base", plan(guidance_scale=3.5), canvases)
    assert decode_task(encode_task(task)) == task


@pytest.mark.slow
def test_images_have_the_recipes_size_and_show_the_lora(base: Path, lora: Path, tmp_path: Path) -> None:
    from PIL import Image

    said = drawn(base, Canvas(0, None, tmp_path / "0"), Canvas(2, lora, tmp_path / "2"))
    assert [report for report in said if isinstance(report, Drawn)] == [
        Drawn(epoch, name) for epoch in (0, 2) for name in NAMES
    ]
    assert [(r.epoch, r.images) for r in said if isinstance(r, EpochDrawn)] == [(0, 3), (2, 3)]
    start, trained = images(tmp_path / "0"), images(tmp_path / "2")
    assert list(start) == [f"{name}.png" for name in NAMES]
    assert all(start[name] != trained[name] for name in start)
    assert Image.open(tmp_path / "2/a.png").size == (24, 24)


@pytest.mark.slow
def test_taking_a_lora_off_leaves_the_base(base: Path, lora: Path, tmp_path: Path) -> None:
    drawn(base, Canvas(2, lora, tmp_path / "2"), Canvas(0, None, tmp_path / "after"))
    drawn(base, Canvas(0, None, tmp_path / "alone"))
    assert images(tmp_path / "after") == images(tmp_path / "alone")


@pytest.mark.slow
def test_whole_images_are_kept_and_others_drawn_again(base: Path, tmp_path: Path) -> None:
    canvas = Canvas(0, None, tmp_path / "0")
    drawn(base, canvas)
    first = images(canvas.out)
    (canvas.out / "b.png").write_bytes(first["b.png"][:-40])
    assert [r.image for r in drawn(base, canvas) if isinstance(r, Drawn)] == ["b"]
    assert images(canvas.out) == first


@pytest.mark.slow
def test_a_base_that_comes_with_ddim_is_sampled_with_it(base: Path, tmp_path: Path) -> None:
    own = shutil.copytree(base, tmp_path / "base")
    configuration = own / "scheduler/scheduler_config.json"
    configuration.write_text(configuration.read_text().replace("DDPMScheduler", "DDIMScheduler"))
    drawn(base, Canvas(0, None, tmp_path / "dpm"))
    drawn(own, Canvas(0, None, tmp_path / "ddim"))
    assert images(tmp_path / "dpm") != images(tmp_path / "ddim")


@pytest.mark.slow
def test_an_image_hardly_depends_on_its_batch(base: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    drawn(base, Canvas(0, None, tmp_path / "pairs"))
    drawn(base, Canvas(0, None, tmp_path / "single"), batch_size=1)
    for name in NAMES:
        pair, single = (
            np.asarray(Image.open(tmp_path / f / f"{name}.png"), int) for f in ("pairs", "single")
        )
        assert abs(pair - single).max() <= 1


@pytest.mark.slow
def test_a_lora_that_does_not_fit_is_named(base: Path, lora: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from job.trainers.embedded.errors import TrainingError

    other = {key.replace("mid_block", "end_block"): value for key, value in load_file(lora).items()}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match=r"other\.safetensors does not fit"):
        drawn(base, Canvas(2, tmp_path / "other.safetensors", tmp_path / "2"))


@pytest.mark.slow
def test_the_child_draws_and_says_what_stops_it(base: Path, tmp_path: Path) -> None:
    canvases = (Canvas(0, None, tmp_path / "0"), Canvas(1, tmp_path / "absent.safetensors", tmp_path / "1"))
    command = draw_command(DrawTask(small(), base, plan(), canvases), tmp_path / "task.json")
    environment = {**command.environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command.argv, env=environment, capture_output=True, text=True, check=False)
    said = [parse(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert said[:3] == [Drawn(0, name) for name in NAMES]
    assert isinstance(said[3], EpochDrawn)
    assert isinstance(said[4], Trouble)
    assert "absent.safetensors" in said[4].message
