"""A workspace with a random base model of a few megabytes and a small data set, driven as people do."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from job.contract.manifest import POD_ID_VARIABLE

IMAGES = 6
EPOCHS = 6
STEPS_PER_EPOCH = 3
OUTPUT = "punks"
PATIENCE_SECONDS = 1200
"""For one command, on a busy machine: the longest trains for some minutes on a quiet one."""
COMMAND = """
import signal
from launcher.cli.root import main
# A shell that starts tests in the background has SIGINT ignored, which children inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
SETTINGS = f"""
[run]
training_zip = "data.zip"
base_model = "base"
[recipe]
output_name = "{OUTPUT}"
max_epochs = {EPOCHS}
save_every = 2
resolution = [24, 24]
batch_size = 4
repeat_count = 2
lora_dim = 4
lora_alpha = 4
[evaluation]
prompts = 2
inference_steps = 2
[clocks]
poll = 0.3
heartbeat = 1
progress = 0.5
lease = 10
state_every = 0.1
"""


@dataclass
class Workspace:
    """A folder in which retrain is used."""

    folder: Path
    said: list[str] = field(default_factory=list)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command in the background."""
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
        """Wait for a command and return its exit code, stdout and stderr."""
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        self.said += [out.decode(), err.decode()]
        return process.returncode, out.decode(), err.decode()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command to its end."""
        return self.finish(self.start(*arguments))

    def result(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must end with 0 and return its JSON object."""
        code, out, err = self.run(*arguments, "--json")
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    def pods(self) -> list[psutil.Process]:
        """Return the processes of this workspace's pods."""
        ids = {path.name for path in self.folder.glob(".retrain/pods/*")}
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(POD_ID_VARIABLE) in ids and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def jobs(self) -> list[psutil.Process]:
        """Return the jobs themselves, without their children."""
        return [process for process in self.pods() if process.cmdline()[1:3] == ["-m", "job"]]


def until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not in {seconds:.0f} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def ingredients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and a data set; made in a child, so that torch stays out of the test process."""
    folder = tmp_path_factory.mktemp("ingredients")
    script = (
        "import sys; from pathlib import Path; from tests.job.trainers.tiny import write_base, write_dataset;"
        "folder = Path(sys.argv[1]); (folder / 'base').mkdir(); write_base(folder / 'base');"
        f"write_dataset(folder / 'data', images={IMAGES})"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for path in sorted((folder / "data").rglob("*.*")):
            archive.write(path, f"some/where/{path.name}")
    return folder


@pytest.fixture
def workspace(tmp_path: Path, ingredients: Path) -> Iterator[Workspace]:
    (tmp_path / "base").symlink_to(ingredients / "base")
    (tmp_path / "data.zip").symlink_to(ingredients / "data.zip")
    (tmp_path / "retrain.toml").write_text(SETTINGS)
    place = Workspace(tmp_path)
    yield place
    for launcher in place.started:
        if launcher.poll() is None:
            launcher.kill()
            launcher.communicate()
    for process in place.pods():
        process.kill()
    stop = (
        "from pathlib import Path; from launcher.storage.embedded import EmbeddedServer;"
        "EmbeddedServer(Path('.retrain/store')).stop()"
    )
    subprocess.run([sys.executable, "-c", stop], cwd=tmp_path, check=True)
