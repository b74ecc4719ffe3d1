"""The files: kohya's names and shapes, read by plain diffusers, whole after a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job.trainers.embedded.environment import child_environment
from tests.job.trainers.conftest import Train
from tests.job.trainers.recipes import small

pytestmark = pytest.mark.slow


@pytest.fixture
def checkpoint(train: Train, tmp_path: Path) -> Path:
    train(small(max_epochs=1, save_precision="fp16", learning_rate=0.05, text_lr=0.05))
    return tmp_path / "out/lora-000001.safetensors"


def test_names_and_shapes_are_those_of_kohya(checkpoint: Path) -> None:
    import torch
    from safetensors.torch import load_file

    tensors = load_file(checkpoint)
    block = "lora_unet_down_blocks_0_attentions_0"
    inner = f"{block}_transformer_blocks_0"
    expected = {
        f"{block}_proj_in.lora_down.weight": (4, 32, 1, 1),
        f"{block}_proj_in.lora_up.weight": (32, 4, 1, 1),
        f"{block}_proj_out.alpha": (),
        f"{inner}_attn1_to_q.lora_down.weight": (4, 32),
        f"{inner}_attn2_to_k.lora_up.weight": (32, 4),
        f"{inner}_attn1_to_out_0.alpha": (),
        f"{inner}_ff_net_0_proj.lora_up.weight": (256, 4),
        f"{inner}_ff_net_2.lora_down.weight": (4, 128),
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": (4, 32),
        "lora_te_text_model_encoder_layers_1_self_attn_out_proj.alpha": (),
        "lora_te_text_model_encoder_layers_1_mlp_fc1.lora_up.weight": (64, 4),
    }
    assert {key: tuple(tensors[key].shape) for key in expected} == expected
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(float(value) == 2 for key, value in tensors.items() if key.endswith(".alpha"))
    # Every layer that sd-scripts trains: 12 in each transformer (4 here), 6 in each text layer (2 here).
    assert sum(key.startswith("lora_unet") for key in tensors) == 3 * 4 * 12
    assert sum(key.startswith("lora_te") for key in tensors) == 3 * 2 * 6


def test_stable_diffusion_15_gets_the_264_layers_of_sd_scripts() -> None:
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from job.trainers.embedded.lora import TEXT_ENCODER, UNET, targets

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
            )
        )
    names = [name for name, _ in targets(unet, UNET)]
    assert len(set(names)) == 192
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj" in names
    assert "lora_unet_up_blocks_3_attentions_2_proj_out" in names
    assert len({name for name, _ in targets(text_encoder, TEXT_ENCODER)}) == 72


def test_the_metadata_says_how_it_was_made(checkpoint: Path) -> None:
    from safetensors import safe_open

    with safe_open(checkpoint, "pt") as file:
        said = file.metadata()
    assert said["ss_network_module"] == "networks.lora"
    assert (said["ss_network_dim"], said["ss_network_alpha"]) == ("4", "2.0")
    assert (said["ss_epoch"], said["ss_steps"], said["ss_num_train_images"]) == ("1", "3", "10")
    assert json.loads(said["ss_tag_frequency"])["2_punk"]["red hat"] == 5
    assert json.loads(said["ss_dataset_dirs"]) == {"2_punk": {"n_repeats": 2, "img_count": 5}}
    blob = checkpoint.read_bytes()
    body = blob[8 + int.from_bytes(blob[:8], "little") :]
    assert said["sshs_model_hash"] == hashlib.sha256(body).hexdigest()


def outputs(unet: Any, text_encoder: Any) -> tuple[Any, Any]:
    """What U-Net and text encoder answer to fixed inputs."""
    import torch

    torch.manual_seed(1)
    noisy, tokens = torch.randn(2, 4, 12, 12), torch.randint(0, 500, (2, 77))
    with torch.no_grad():
        states = text_encoder(tokens)[0]
        return unet(noisy, torch.tensor([10, 900]), states, return_dict=False)[0], states


def test_training_diffusers_and_the_merge_agree(checkpoint: Path, base: Path) -> None:
    """The three ways to apply a file give the same answers, and others than the base's."""
    import torch
    from diffusers import StableDiffusionPipeline

    from job.evaluate.draw.merging import LoraSlot
    from job.trainers.embedded.base_model import load_base
    from job.trainers.embedded.lora import LoraNetwork, read_lora

    def close(left: tuple[Any, Any], right: tuple[Any, Any]) -> bool:
        return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(left, right, strict=True))

    plain = load_base(base)
    untouched = outputs(plain.unet, plain.text_encoder)

    trained = load_base(base)
    network = LoraNetwork(trained.unet, trained.text_encoder, rank=4, alpha=2, dropout=0)
    assert not network.load(read_lora(checkpoint), checkpoint.name)
    in_training = outputs(trained.unet, trained.text_encoder)
    assert all((a - b).abs().max() > 0.02 for a, b in zip(untouched, in_training, strict=True))

    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipe.load_lora_weights(checkpoint)
    assert close(in_training, outputs(pipe.unet, pipe.text_encoder))

    slot = LoraSlot(plain.unet, plain.text_encoder)
    slot.wear(checkpoint)
    assert close(in_training, outputs(plain.unet, plain.text_encoder))
    slot.wear(None)
    assert all(a.equal(b) for a, b in zip(untouched, outputs(plain.unet, plain.text_encoder), strict=True))


def test_a_new_lora_changes_nothing(base: Path) -> None:
    from job.trainers.embedded.base_model import load_base
    from job.trainers.embedded.lora import LoraNetwork

    model = load_base(base)
    untouched = outputs(model.unet, model.text_encoder)
    LoraNetwork(model.unet, model.text_encoder, rank=4, alpha=2, dropout=0.5)
    assert all(a.equal(b) for a, b in zip(untouched, outputs(model.unet, model.text_encoder), strict=True))


def test_a_kill_leaves_no_half_file(tmp_path: Path) -> None:
    """The writer dies by SIGKILL at many moments: what has its final name is complete."""
    program = (
        "import sys, itertools; from pathlib import Path\n"
        "from job.trainers.embedded.files import write_file, write_folder\n"
        "folder = Path(sys.argv[1]); data = bytes(3_000_000)\n"
        "print('go', flush=True)\n"
        "for n in itertools.count():\n"
        "    write_file(folder / f'{n}.safetensors', data)\n"
        "    write_folder(folder / f'state-{n:06d}', {'a': data, 'b': data})\n"
    )
    for moment in range(4):
        folder = tmp_path / str(moment)
        folder.mkdir()
        argv = [sys.executable, "-c", program, str(folder)]
        with subprocess.Popen(argv, env=child_environment(), stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.11 + 0.037 * moment)
            os.kill(child.pid, signal.SIGKILL)
        assert all(path.stat().st_size == 3_000_000 for path in folder.glob("*.safetensors"))
        for state in folder.glob("state-" + "[0-9]" * 6):
            assert sorted(path.name for path in state.iterdir()) == ["a", "b"]
            assert all(path.stat().st_size == 3_000_000 for path in state.iterdir())
