"""The embedded default as it comes: it must teach what it claims, and a control must not."""

import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from launcher.settings import example_dir
from tests.end_to_end.conftest import Workspace

pytestmark = pytest.mark.slow

TAUGHT = ("hairstyle", "expression")
PLAIN_DIFFUSERS = """
import sys, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)
pipe.set_progress_bar_config(disable=True)
def draw():
    generator = torch.Generator().manual_seed(1)
    prompt = "pixel art, 24x24, portrait of tiny punk lad, curly hair, smiling mouth"
    return pipe(prompt, num_inference_steps=4, height=24, width=24, generator=generator).images[0].tobytes()
before = draw()
pipe.load_lora_weights(sys.argv[2])
print(before != draw())
"""


@pytest.fixture
def fresh(workspace: Workspace) -> Workspace:
    """A workspace without settings: what a newcomer has."""
    for name in ("retrain.toml", "base", "data.zip"):
        (workspace.folder / name).unlink()
    return workspace


def test_the_default_teaches_what_its_base_has_no_words_for(fresh: Workspace) -> None:
    result = fresh.result("run")
    epochs = [item["epoch"] for item in result["checkpoints"]]
    assert epochs == [2, 4, 6, 8, 10] and result["teardown"]["confirmed"]
    last = result["fidelity"][-1]
    assert last["epoch"] == 10
    for name in TAUGHT:
        assert last["attributes"][name]["clear_of_start"], (name, last)
    chosen = next(item for item in result["fidelity"] if item["epoch"] == result["selected"]["epoch"])
    assert all(chosen["attributes"][name]["clear_of_start"] for name in TAUGHT)

    model = fresh.folder / "models/tinypunks.safetensors"
    drawn = subprocess.run(
        [sys.executable, "-c", PLAIN_DIFFUSERS, str(example_dir() / "base"), str(model)],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert drawn.stdout.decode().strip() == "True"


def test_captions_of_other_images_teach_nothing(fresh: Workspace) -> None:
    """The control. It takes a ruler to measure it, so it goes in as the example's own data set."""
    example = fresh.folder / "examples/tinypunks"
    example.mkdir(parents=True)
    for item in example_dir().iterdir():
        (example / item.name).symlink_to(item)
    (example / "dataset.zip").unlink()
    shuffled(example_dir() / "dataset.zip", example / "dataset.zip")
    script = (
        "import sys; from pathlib import Path; from launcher import staging;"
        "example = Path(sys.argv.pop(1)); staging.example_dir = lambda: example;"
        "from launcher.cli.root import main; main()"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            str(example),
            "run",
            "--json",
            "--max-epochs",
            "6",
            "--save-every",
            "6",
        ],
        cwd=fresh.folder,
        stdout=subprocess.PIPE,
        check=True,
    )
    result = json.loads(done.stdout)
    last = result["fidelity"][-1]
    assert last["epoch"] == 6
    assert not any(last["attributes"][name]["clear_of_start"] for name in TAUGHT), last


def shuffled(source: Path, target: Path) -> None:
    """Pair every image with the caption of another one."""
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(target, "w") as made:
        stems = sorted(name[:-4] for name in given.namelist() if name.endswith(".txt"))
        others = stems[:]
        random.Random(5).shuffle(others)
        for stem, other in zip(stems, others, strict=True):
            made.writestr(f"{stem}.png", given.read(f"{stem}.png"))
            made.writestr(f"{stem}.txt", given.read(f"{other}.txt"))
