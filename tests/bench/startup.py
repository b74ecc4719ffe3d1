"""What a command costs before it does anything: `retrain --help`, and `make retrain` when set-up is done."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.figures import Figure, Side, alternating, spread, time_ratios
from tests.bench.machine import ROOT
from tests.bench.processes import run

GROUP = "start-up"


def measure(folder: Path, *, quick: bool) -> Iterator[Figure]:
    """Yield the figures. `folder` is not used: nothing is written."""
    pairs = 5 if quick else 25
    environment = {**os.environ, "MAKEFLAGS": ""}
    retrain = Path(sys.executable).with_name("retrain")

    ours, theirs = alternating(
        lambda: run([retrain, "--help"]), lambda: run([sys.executable, "-c", "pass"]), pairs=pairs
    )
    yield Figure(
        group=GROUP,
        name="retrain --help",
        **spread(time_ratios(ours, theirs)),
        means="time of `python -c pass` = 1",
        sides=(Side.of("retrain --help", ours), Side.of("python -c pass", theirs)),
    )

    if not knows_make():
        return
    ours, theirs = alternating(
        lambda: run(["make", "retrain", "RETRAIN_FLAGS=--help"], cwd=ROOT, environment=environment),
        lambda: run([retrain, "run", "--help"], cwd=ROOT),
        pairs=pairs,
    )
    yield Figure(
        group=GROUP,
        name="make retrain, set-up done",
        **spread(time_ratios(ours, theirs)),
        means="time of `retrain run` up to its own work = 1",
        sides=(Side.of("make retrain RETRAIN_FLAGS=--help", ours), Side.of("retrain run --help", theirs)),
    )


def knows_make() -> bool:
    """Whether this is the environment that `make retrain` starts."""
    return shutil.which("make") is not None and Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
