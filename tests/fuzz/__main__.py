"""Fuzzes every target in turn and says what came of it: `make fuzz SECONDS=3600`.

    python -m tests.fuzz [--seconds N] [TARGET ...]     fuzz them all, or these, N seconds in all
    python -m tests.fuzz --replay FILE TARGET           give a target one input again

What was learnt stays in `.fuzz/` for the next time; an input that finds something is kept there and named.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

FOLDER = Path(".fuzz")
INPUT_SECONDS_MAX = 30
"""One input that takes longer is a finding: a hang."""
MEMORY_MIB_MAX = 2048
"""An input that takes more is a finding; a picture of the largest size allowed takes 600."""
LENGTH_MAX = 1 << 14
MEMORY_DISK = Path("/dev/shm")
"""Where there is such a place, temporary files are made there, to spare the disk."""
_EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)")


@dataclass(frozen=True)
class Fuzzed:
    """What came of one target."""

    target: str
    executions: int
    seconds: float
    findings: tuple[Path, ...]
    healthy: bool
    """Whether the engine ended as it should."""


def main() -> int:
    """Fuzz, print a line for each target and a sum, and return 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--replay", type=Path, metavar="FILE")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]}")
    if given.replay is not None:
        for name in names:
            TARGETS[name](given.replay.read_bytes())
        return 0
    results = [_fuzz(name, max(1, round(given.seconds / len(names)))) for name in names]
    found = sum(len(result.findings) for result in results)
    ill = [result.target for result in results if not result.healthy and not result.findings]
    sys.stdout.write(
        f"fuzz: {len(results)} targets, {sum(result.executions for result in results)} executions in "
        f"{sum(result.seconds for result in results):.0f} s, {found} finding(s)\n"
    )
    if ill:
        sys.stdout.write(f"the engine did not run for {', '.join(ill)}: see {FOLDER}/*.log\n")
    return 1 if found or ill else 0


def _fuzz(name: str, seconds: int) -> Fuzzed:
    corpus, crashes = FOLDER / name, FOLDER / "findings"
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number:02d}").write_bytes(seed)
    log = FOLDER / f"{name}.log"
    began = time.monotonic()
    known = set(crashes.iterdir())
    with log.open("wb") as output:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.engine", name, str(corpus)),
                f"-max_total_time={seconds}",
                f"-timeout={INPUT_SECONDS_MAX}",
                f"-rss_limit_mb={MEMORY_MIB_MAX}",
                f"-max_len={LENGTH_MAX}",
                f"-artifact_prefix={crashes}/{name}-",
                "-print_final_stats=1",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_spared(dict(os.environ)),
            check=False,
        )
    counted = _EXECUTIONS.findall(log.read_text(errors="replace"))
    findings = tuple(sorted(set(crashes.iterdir()) - known))
    result = Fuzzed(
        name, int(counted[-1]) if counted else 0, time.monotonic() - began, findings, ended.returncode == 0
    )
    sys.stdout.write(
        f"{name:<16} {result.executions:>9} executions {result.seconds:>6.0f} s"
        f"  {len(findings) or 'no'} finding(s)\n"
    )
    for path in findings:
        sys.stdout.write(f"  {path}; again with: python -m tests.fuzz --replay {path} {name}\n")
    sys.stdout.flush()
    return result


def _spared(variables: dict[str, str]) -> dict[str, str]:
    """Return the environment with temporary files in memory, where there is such a place."""
    if MEMORY_DISK.is_dir() and os.access(MEMORY_DISK, os.W_OK):
        variables["TMPDIR"] = str(MEMORY_DISK)
    return variables


if __name__ == "__main__":
    raise SystemExit(main())
