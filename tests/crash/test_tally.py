"""The closing line, in pytest sessions of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = {
    "test_many.py": 'def test_many() -> None: TALLY.add(kind="simulated", cases=6000)',
    "test_more.py": 'def test_more() -> None: TALLY.add(kind="simulated", cases=21, lost=1); assert False',
    "test_real.py": 'def test_real() -> None: TALLY.add(kind="real", cases=20, leaked=2)',
    "test_other.py": "def test_other() -> None: pass",
}
LINE = "crash suite: 6021 simulated cases and 20 with real kills, 1 lost checkpoints, 2 leaked pods"


def last_line(folder: Path, *arguments: str) -> str:
    (folder / "conftest.py").write_text("from tests.crash.closing_line import *\n")
    for name, text in TESTS.items():
        (folder / name).write_text(f"from tests.crash.tally import TALLY\n{text}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("flags", [[], ["-p", "no:xdist"], ["-n2"]], ids=["plain", "no xdist", "workers"])
def test_the_last_line_counts_all_cases(tmp_path: Path, flags: list[str]) -> None:
    assert last_line(tmp_path, *flags) == LINE


def test_nothing_is_said_where_no_crash_test_ran(tmp_path: Path) -> None:
    assert "crash suite" not in last_line(tmp_path, "test_other.py")
