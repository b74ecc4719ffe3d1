"""Sampled real kills: real launchers, store and job at the simulator, SIGKILL at sampled requests, real time.

`RETRAIN_MATRIX_KILLS` sets how many, `RETRAIN_MATRIX_SEED` which.
"""

import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from job.contract import keys
from tests.matrix.tally import TALLY
from tests.rehearsal.night import CAP_DOLLARS, Night, night
from tests.rehearsal.truth import broken
from tests.simulators.runpod import Operation, Simulator, Trouble

KILLS = int(os.environ.get("RETRAIN_MATRIX_KILLS", "3"))
SEED = int(os.environ.get("RETRAIN_MATRIX_SEED", "0"))
READS = (Operation.LIST, Operation.GET)
REQUESTS = range(1, 16)
"""After which of a launcher's requests it is killed: before, around and after the one that rents."""
TROUBLES: Mapping[str, Callable[[Simulator], object]] = {
    "nothing": lambda cloud: None,
    "cut off after create": lambda cloud: cloud.trouble(
        Trouble.DISCONNECT, Operation.CREATE, after_effect=True
    ),
    "list lag": lambda cloud: vars(cloud.faults.conditions).update(list_lag_seconds=5.0),
    "HTML 502 to reads": lambda cloud: cloud.trouble(Trouble.BAD_GATEWAY, *READS, skip=1, times=3),
    "answers to terminate lost": lambda cloud: cloud.trouble(
        Trouble.DISCONNECT, Operation.DELETE, times=2, after_effect=True
    ),
}


def sample() -> list[tuple[str, int]]:
    """Return troubles and requests, dealt like cards."""
    chance = random.Random(SEED)
    troubles = [chance.sample(list(TROUBLES), len(TROUBLES)) for _ in range(KILLS)]
    return [(troubles[n // len(TROUBLES)][n % len(TROUBLES)], chance.choice(REQUESTS)) for n in range(KILLS)]


def kill_after(stage: Night, requests: int) -> bool:
    """Kill a launcher once it has sent so many requests; False where it ended before."""
    launcher = stage.start("run")
    while sum(not record.by_pod for record in stage.simulator.records) < requests:
        if launcher.ended():
            return False
        time.sleep(0.005)
    launcher.kill()
    return True


@pytest.mark.slow
@pytest.mark.parametrize(("trouble", "requests"), sample())
def test_a_launcher_is_really_killed(tmp_path: Path, trouble: str, requests: int) -> None:
    with night(tmp_path) as stage:
        TROUBLES[trouble](stage.simulator)
        assert kill_after(stage, requests), stage.commands[-1].said.decode()
        # Before a run is on record there is nothing to attach to, and nothing was rented.
        on_record = bool(stage.store.list(keys.RECORDS_PREFIX))
        code = stage.play("attach" if on_record else "run", mishaps=[])
        said = stage.commands[-1].said.decode()
        assert (code, broken(stage)) == (0, []), said
        TALLY.add(told=False, overspent=max(0.0, stage.simulator.spent() - CAP_DOLLARS), bounded=True)
