"""`python -m tests.rehearsal`: play a night, and say whether everything held. Exit code 0 only then."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from launcher.cli.signals import heed, interrupted_code
from tests.rehearsal.faults import MISHAPS, mishap
from tests.rehearsal.night import night
from tests.rehearsal.truth import broken, receipt

FOLDER = Path(__file__).parents[2] / "build" / "rehearsal"


def main() -> int:
    """Play the night that the command line asks for and return the exit code."""
    mishaps = [mishap(name) for name in _arguments().faults]
    heed()  # whoever ends this ends its pods and its store, too
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    began = time.monotonic()
    _tell("a night at a simulated RunPod, on real time; nothing leaves this machine, nothing costs anything")
    for item in mishaps:
        _tell(f"tonight {item.words}")
    with night(FOLDER, shown=True) as stage:
        code = stage.play("run", mishaps=mishaps)
        wrong = [f"retrain ended with exit code {code}"] if code else []
        wrong += broken(stage, mishaps)
        sys.stdout.write(receipt(stage))
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    if wrong:
        for sentence in wrong:
            _tell(f"does not hold: {sentence}")
        _tell(f"the rehearsal failed after {minutes} min {seconds} s; what it left is in {FOLDER}")
        return 1
    _tell(
        f"everything held, after {minutes} min {seconds} s: exit code 0, every checkpoint home and equal to"
        " its receipt, no pod left, the stranger's pod untouched, no secret anywhere"
    )
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.rehearsal",
        description=__doc__,
        epilog="faults: " + "; ".join(f"{name}: {make().words}" for name, make in MISHAPS.items()),
    )
    parser.add_argument("faults", nargs="*", choices=[*MISHAPS], help="what goes wrong, in this order")
    return parser.parse_args()


def _tell(line: str) -> None:
    sys.stderr.write(f"rehearsal: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt as interrupt:
        sys.exit(interrupted_code(interrupt))
