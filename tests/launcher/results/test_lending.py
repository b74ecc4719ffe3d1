"""Folders for passing files: none outlives its borrower for long, however that ended."""

import os
import subprocess
import sys
import time
from pathlib import Path

from launcher.results.lending import lent

BORROWER = """
import sys; from pathlib import Path; from launcher.results.lending import lent
with lent(Path(sys.argv[1])) as folder:
    (folder / "base.zip").write_bytes(b"gigabytes")
    print(folder, flush=True)
    input()
"""


def make_old(folder: Path) -> None:
    hours_ago = time.time() - 7200
    os.utime(folder, (hours_ago, hours_ago))


def test_a_folder_is_gone_when_it_is_given_back(tmp_path: Path) -> None:
    with lent(tmp_path) as folder:
        (folder / "x").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_up_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", BORROWER, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as borrower:
        assert borrower.stdout is not None
        folder = Path(borrower.stdout.readline().strip())
        make_old(folder)
        with lent(tmp_path):
            assert (folder / "base.zip").exists()
        borrower.kill()
    make_old(folder)
    with lent(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine]


def test_a_folder_that_was_made_this_moment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    with lent(tmp_path):
        assert (tmp_path / "fresh").exists()
