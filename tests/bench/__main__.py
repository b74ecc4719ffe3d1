"""`python -m tests.bench`: measure, write JSON, print the table. Fails only where measuring failed."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launcher.cli.signals import heed, interrupted_code
from tests.bench import machine, many, startup, table, training, transfers, watching
from tests.bench.figures import Figure
from tests.bench.opponent import find_s5cmd

Part = Callable[..., Iterator[Figure]]
PARTS: dict[str, Part] = {
    "training": training.measure,
    "transfers": transfers.measure,
    "watching": watching.measure,
    "many": many.measure,
    "startup": startup.measure,
}
DOCUMENT = machine.ROOT / "docs" / "performance.md"
NO_OPPONENT = "s5cmd is not installed (extra `bench`): transfers were not measured beside it."
NO_MAKE = "`make retrain` was not measured: that needs the environment that make set up."


def main() -> None:
    """Measure what the command line asks for."""
    arguments = _arguments()
    heed()  # whoever ends this ends its servers and pods, too
    found: dict[str, Any] = machine.describe()
    began, figures, remarks = time.monotonic(), [], []
    for name in arguments.only or PARTS:
        _tell(f"measuring {name} ...")
        with tempfile.TemporaryDirectory(prefix="retrain-bench-", dir=arguments.folder) as folder:
            for figure in PARTS[name](Path(folder), quick=arguments.quick):
                _tell(f"  {figure.name}: {figure.ratio:.3f} ({figure.low:.3f} to {figure.high:.3f})")
                figures.append(figure)
    if arguments.quick:
        remarks.append("Measured with --quick: too little to be quoted.")
    if "transfers" in (arguments.only or PARTS) and find_s5cmd() is None:
        remarks.append(NO_OPPONENT)
    if "startup" in (arguments.only or PARTS) and not startup.knows_make():
        remarks.append(NO_MAKE)
    found["minutes"] = round((time.monotonic() - began) / 60, 1)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    written = {"machine": found, "figures": [figure.to_json() for figure in figures], "remarks": remarks}
    arguments.json.write_text(json.dumps(written, indent=1) + "\n")
    sys.stdout.write("\n" + table.as_text(found, figures, remarks))
    if arguments.write_docs:
        table.write_docs(DOCUMENT, found, figures, remarks, "make bench")
        _tell(f"written to {DOCUMENT}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", type=Path, default=machine.ROOT / "build" / "bench.json", metavar="FILE")
    parser.add_argument("--only", action="append", choices=sorted(PARTS), help="may be given several times")
    parser.add_argument(
        "--quick", action="store_true", help="small and few: to try the benchmarks themselves"
    )
    parser.add_argument("--write-docs", action="store_true", help="put the figures into docs/performance.md")
    parser.add_argument("--folder", type=Path, help="disk to work on, 3 GB; default: that of temporary files")
    return parser.parse_args()


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as interrupt:
        sys.exit(interrupted_code(interrupt))
