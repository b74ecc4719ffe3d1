"""Training in this process on a tiny random base: exact resume, starts, refusals."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from job.contract.reasons import Reason
from job.trainers.base import Remark, ResumeFrom, Saved, Started, StateSaved, Stepped
from job.trainers.embedded.errors import TrainingError
from tests.job.trainers.conftest import Train
from tests.job.trainers.recipes import small

pytestmark = pytest.mark.slow


def losses(trained: object) -> list[float]:
    return [step.loss for step in trained.of(Stepped)]  # type: ignore[attr-defined]


def test_it_counts_saves_and_learns(train: Train) -> None:
    trained = train(small(max_epochs=5, save_every=2, lr_scheduler="constant"), state_every_seconds=1e9)
    assert trained.of(Started) == [Started(15, 3, 5, 0)]
    assert [(s.step, s.epoch) for s in trained.of(Stepped)] == [(n, -(-n // 3)) for n in range(1, 16)]
    out = trained.task.output_dir
    expected = [(out / f"lora-{epoch:06d}.safetensors", epoch, epoch * 3) for epoch in (2, 4, 5)]
    assert [(s.path, s.epoch, s.step) for s in trained.of(Saved)] == expected
    assert sorted(out.glob("*.safetensors")) == [path for path, _, _ in expected]
    # State after every checkpoint; the newest two are kept.
    assert [s.epoch for s in trained.of(StateSaved)] == [2, 4, 5]
    assert sorted(p.name for p in out.glob("state-*")) == ["state-000004", "state-000005"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"network_dropout": 0.3, "caption_dropout_rate": 0.3, "cache_latents": False, "min_snr_gamma": 5.0},
        {"text_lr": 0.0, "shuffle_caption": False, "lr_scheduler_num_cycles": 2, "lr_warmup_steps": 2},
    ],
    ids=["default", "dropouts", "unet alone"],
)
def test_a_resumed_run_is_the_same_run(train: Train, changes: dict[str, object], tmp_path: Path) -> None:
    recipe = small(max_epochs=3, **changes)
    whole = train(recipe, state_every_seconds=0)
    shutil.copytree(tmp_path / "out/state-000002", tmp_path / "kept")
    resume = ResumeFrom(tmp_path / "kept", 2, 6)
    rest = train(recipe, output="rest", resume=resume)
    assert rest.of(Started) == [Started(9, 3, 3, 6)]
    assert losses(rest) == losses(whole)[6:]
    last = "lora-000003.safetensors"
    assert (tmp_path / "rest" / last).read_bytes() == (tmp_path / "out" / last).read_bytes()


def test_a_state_is_refused_under_another_recipe(train: Train, tmp_path: Path) -> None:
    recipe = small(max_epochs=1)
    train(recipe)
    resume = ResumeFrom(tmp_path / "out/state-000001", 1, 3)
    with pytest.raises(TrainingError, match="text_lr") as caught:
        train(small(max_epochs=1, text_lr=1e-4), output="other", resume=resume)
    assert caught.value.reason is Reason.BAD_RECIPE
    with pytest.raises(TrainingError, match="step"):
        train(recipe, output="other", resume=ResumeFrom(resume.folder, 1, 4))
    train(small(max_epochs=1, save_precision="float"), output="fine", resume=resume)


def test_a_damaged_state_is_refused(train: Train, tmp_path: Path) -> None:
    train(small(max_epochs=1))
    (tmp_path / "out/state-000001/optimizer.pt").write_bytes(b"PK no more")
    with pytest.raises(TrainingError, match="cannot be read") as caught:
        train(small(max_epochs=1), output="x", resume=ResumeFrom(tmp_path / "out/state-000001", 1, 3))
    assert caught.value.reason is Reason.BAD_INPUT


def test_it_starts_from_init_weights(train: Train, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    train(small(max_epochs=1, save_precision="float"))
    start = tmp_path / "out/lora-000001.safetensors"
    # A text rate of zero and a U-Net rate too small to move fp32: what comes out is what went in.
    still = small(max_epochs=1, save_precision="float", learning_rate=1e-30, text_lr=0)
    train(still, output="still", init_weights=start)
    before, after = load_file(start), load_file(tmp_path / "still/lora-000001.safetensors")
    assert before.keys() == after.keys()
    assert all(before[key].equal(after[key]) for key in before)


def test_init_weights_of_another_alpha_start_from_the_same_images(train: Train, tmp_path: Path) -> None:
    from job.trainers.embedded.lora import read_lora

    train(small(max_epochs=1, save_precision="float"))
    start = tmp_path / "out/lora-000001.safetensors"
    still = small(max_epochs=1, save_precision="float", learning_rate=1e-30, text_lr=0, lora_alpha=4)
    trained = train(still, output="still", init_weights=start)
    assert any("alpha 2, rescaled" in remark.message for remark in trained.of(Remark))
    before, after = read_lora(start), read_lora(tmp_path / "still/lora-000001.safetensors")
    for name, weights in before.items():
        rows, columns = weights.up.shape[0], weights.down.shape[1]
        shape = weights.up.new_empty(rows, columns).shape
        assert weights.delta(shape).allclose(after[name].delta(shape), atol=1e-7), name


@pytest.mark.parametrize("damage", ["rank", "architecture", "text", "missing"])
def test_init_weights_that_do_not_fit_are_refused(train: Train, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    start = tmp_path / "start.safetensors"
    recipe = small(max_epochs=1)
    if damage == "text":
        start.write_text("no tensors")
    elif damage != "missing":
        train(small(max_epochs=1, lora_dim=2) if damage == "rank" else recipe)
        tensors = load_file(tmp_path / "out/lora-000001.safetensors")
        if damage == "architecture":
            tensors = {key.replace("down_blocks_0", "down_blocks_7"): value for key, value in tensors.items()}
        save_file(tensors, start)
    with pytest.raises(TrainingError, match=r"start\.safetensors") as caught:
        train(recipe, output="refused", init_weights=start)
    assert caught.value.reason is Reason.BAD_INIT_WEIGHTS


def test_a_loss_that_is_no_number_stops_at_once(train: Train, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(base, tmp_path / "broken")
    weights = broken / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_out.bias"].fill_(math.inf)
    save_file(tensors, weights)
    with pytest.raises(TrainingError, match="step 1") as caught:
        train(small(), base_model=broken)
    assert caught.value.reason is Reason.NAN_LOSS
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("damage", ["empty", "truncated", "sdxl", "single file"])
def test_a_base_that_cannot_be_loaded_is_named(train: Train, base: Path, tmp_path: Path, damage: str) -> None:
    broken = tmp_path / "some-base"
    if damage == "empty":
        broken.mkdir()
    elif damage == "single file":
        broken.write_bytes(b"no tensors")
    else:
        shutil.copytree(base, broken)
        if damage == "sdxl":
            (broken / "text_encoder_2").mkdir()
        else:
            weights = broken / "unet/diffusion_pytorch_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="some-base") as caught:
        train(small(), base_model=broken)
    assert caught.value.reason is Reason.BAD_BASE_MODEL


@pytest.mark.parametrize("changes", [{"learning_rate": 0.0, "text_lr": 0.0}])
def test_a_recipe_that_trains_nothing_is_refused(train: Train, changes: dict[str, float]) -> None:
    with pytest.raises(TrainingError) as caught:
        train(small(**changes))
    assert caught.value.reason is Reason.BAD_RECIPE


def test_what_a_cpu_cannot_do_is_said(train: Train) -> None:
    trained = train(small(max_epochs=1, mixed_precision="fp16", optimizer="AdamW8bit"))
    said = " ".join(remark.message for remark in trained.of(Remark))
    assert "fp32" in said
    assert "AdamW is used" in said


def test_checkpointing_gradients_changes_no_result(train: Train) -> None:
    recipe = small(max_epochs=1)
    plain = losses(train(recipe))
    saving = losses(train(recipe.model_copy(update={"gradient_checkpointing": "on"}), output="on"))
    assert np.allclose(plain, saving, rtol=1e-5)


def test_a_base_that_predicts_velocity_is_trained_so(train: Train, tmp_path: Path) -> None:
    from safetensors import safe_open

    from tests.job.trainers.tiny import write_base

    base = write_base(tmp_path / "v", prediction_type="v_prediction", linear_projection=True)
    trained = train(small(max_epochs=1, min_snr_gamma=5.0), base_model=base)
    with safe_open(trained.of(Saved)[0].path, "pt") as file:
        assert file.metadata()["modelspec.prediction_type"] == "v"


def test_training_lowers_the_loss(train: Train) -> None:
    recipe = small(max_epochs=12, save_every=12, lr_scheduler="constant", lora_alpha=4, shuffle_caption=False)
    found = losses(train(recipe, state_every_seconds=1e9))
    assert np.mean(found[-12:]) < np.mean(found[:12]) - 0.05
