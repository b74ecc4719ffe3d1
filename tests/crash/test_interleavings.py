"""Thousands of runs under random faults at random effects, with a fake clock: the five promises hold in each.

`RETRAIN_CRASH_CASES` sets how many, by default the same ones each time; `RETRAIN_CRASH_SEED` explores others.
`RETRAIN_CRASH_SHRINK=0` stops at the first failure and leaves it as it is.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from launcher.results import pullback
from tests.crash.faults import Schedule, schedules
from tests.crash.launchers import in_this_thread
from tests.crash.stage import Stage
from tests.crash.tally import TALLY

CASES = int(os.environ.get("RETRAIN_CRASH_CASES", "2000"))
SEED = os.environ.get("RETRAIN_CRASH_SEED", "")
PHASES = [Phase.generate] + [Phase.shrink] * (os.environ.get("RETRAIN_CRASH_SHRINK") != "0")
MEMORY = Path("/dev/shm")


def play(schedule: Schedule) -> None:
    """Play one case and check every promise."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    stage = Stage(folder, schedule)
    try:
        stage.play()
    finally:
        TALLY.add(kind="simulated", cases=1, lost=stage.witness.lost, leaked=stage.witness.leaked)
        shutil.rmtree(folder, ignore_errors=True)


@settings(
    phases=PHASES,
    report_multiple_bugs=False,
    max_examples=CASES,
    deadline=None,
    derandomize=not SEED,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(schedules)
def _any_schedule(schedule: Schedule) -> None:
    play(schedule)


@pytest.mark.slow
def test_no_interleaving_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pullback, "pulsed", in_this_thread)
    monkeypatch.setattr(pullback, "LOCK_SECONDS", 0.0)  # its holder stands still meanwhile
    explore = seed(int(SEED))(_any_schedule) if SEED else _any_schedule
    explore()
