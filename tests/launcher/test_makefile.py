"""The Makefile: what it passes on, and that its set-up runs once and survives an interruption."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ECHO = '#!/bin/sh\nprintf "%s\\n" "$@"\n'
FAKE_PYTHON = """#!/bin/sh
# Stands for any python: notes what it is asked for, makes a venv whose python is itself.
echo "$@" >> {log}
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; printf '%s' '{echo}' > .venv/bin/retrain
    chmod +x .venv/bin/retrain ;;
  *"-m pip"*) test ! -e {broken} ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON.format(log=tmp_path / "log", echo=ECHO, broken=tmp_path / "broken"))
    python.chmod(0o755)
    return folder


def make(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", f"PYTHON={clone.parent / 'python'}", *arguments],
        cwd=clone,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def installs(clone: Path) -> list[str]:
    return [line.split()[-1] for line in (clone.parent / "log").read_text().splitlines() if "-m pip" in line]


def test_only_variables_that_are_set_become_flags(clone: Path) -> None:
    assert make(clone, "retrain").stdout.splitlines() == ["run"]
    ran = make(
        clone,
        "retrain",
        "TRAINING_ZIP=my data's.zip",
        "RESOLUTION=512,512",
        "MAX_EPOCHS=",
        "RETRAIN_FLAGS=--cap 3 --set recipe.seed=7",
        LORA_DIM="8",
        TEXT_LR="",
    )
    assert ran.stdout.splitlines() == [
        "run",
        "--training-zip=my data's.zip",
        "--resolution=512,512",
        "--lora-dim=8",
        "--cap",
        "3",
        "--set",
        "recipe.seed=7",
    ]


def test_all_variables_of_the_manual_page_are_known(clone: Path) -> None:
    names = [
        "TRAINING_ZIP",
        "OUTPUT_NAME",
        "MAX_EPOCHS",
        "SAVE_EVERY",
        "RESOLUTION",
        "BATCH_SIZE",
        "LEARNING_RATE",
        "TEXT_LR",
        "LORA_DIM",
        "LORA_ALPHA",
        "REPEAT_COUNT",
        "INIT_WEIGHTS",
    ]
    ran = make(clone, "retrain", *(f"{name}=1" for name in names))
    assert ran.stdout.splitlines() == ["run", *(f"--{name.lower().replace('_', '-')}=1" for name in names)]


def test_a_rehearsal_gets_its_faults(clone: Path) -> None:
    assert make(clone, "rehearse").returncode == 0
    assert make(clone, "rehearse", "FAULTS=list-lag host-restart").returncode == 0
    asked = [line for line in (clone.parent / "log").read_text().splitlines() if "tests.rehearsal" in line]
    assert asked == ["-m tests.rehearsal host-kill", "-m tests.rehearsal list-lag host-restart"]


def test_the_set_up_runs_once_and_again_when_the_project_changes(clone: Path) -> None:
    for _ in range(3):
        assert make(clone, "retrain").returncode == 0
    assert installs(clone) == [".[local]"]
    later = time.time() + 5
    os.utime(clone / "pyproject.toml", (later, later))
    assert make(clone, "retrain").returncode == 0
    assert installs(clone) == [".[local]"] * 2


def test_a_set_up_that_failed_starts_again(clone: Path) -> None:
    broken = clone.parent / "broken"
    broken.touch()
    assert make(clone, "test").returncode != 0
    broken.unlink()
    assert make(clone, "test").returncode == 0
    assert installs(clone) == [".[local,dev]"] * 2
    assert make(clone, "retrain").returncode == 0  # development includes all that training needs
    assert installs(clone) == [".[local,dev]"] * 2


def test_an_old_python_is_named(clone: Path) -> None:
    (clone.parent / "python").write_text("#!/bin/sh\nexit 1\n")
    ran = make(clone, "retrain")
    assert ran.returncode != 0
    assert "needs Python 3.11 or newer" in ran.stderr
    assert not (clone / ".venv").exists()
