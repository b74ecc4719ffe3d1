"""Takes safety rules away: each from a copy of the project of its own, where something must notice.

`python -m tests.crash.removal [RULE...]` prints the table of docs/guarantees.md.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.crash.rules import RULES, SIMULATION, Rule

ROOT = Path(__file__).parents[2]


def without(rule: Rule, folder: Path) -> None:
    """Copy the project to `folder` and remove the rule there. Raises ValueError when it is not found once."""
    for part in ("launcher", "job", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    path = folder / rule.file
    text = path.read_text()
    if text.count(rule.old) != 1:
        raise ValueError(f"{rule.name}: {rule.file} does not hold {rule.old!r} once")
    path.write_text(text.replace(rule.old, rule.new))


def caught(rule: Rule) -> str | None:
    """Remove a rule from a copy of the project; return what noticed, in words, or None where nothing did."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        without(rule, folder)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", rule.caught_by],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": name,
                "PYTHONDONTWRITEBYTECODE": "1",
                "RETRAIN_CRASH_SHRINK": "0",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        return None
    failed = re.search(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:
        raise RuntimeError(f"{rule.name}: {done.stdout[-3000:]}{done.stderr[-2000:]}")
    broken = re.search(r"^E\s+\S*(?:Broken|Error): (.+)", done.stdout, re.MULTILINE)
    return broken[1] if broken and rule.caught_by == SIMULATION else failed[1]


def row(rule: Rule, by: str) -> str:
    """Return the table's row of a rule."""
    where = "simulation" if rule.caught_by == SIMULATION else f"`{rule.caught_by}`"
    return f"| {rule.name} | `{rule.file}` | {where if '::' in where else f'{where}: {by}'} |"


if __name__ == "__main__":
    wanted = sys.argv[1:]
    for one in RULES:
        if not wanted or one.name in wanted:
            by = caught(one)
            shown = row(one, by) if by is not None else f"NOTHING notices that this is gone: {one.name}"
            print(shown, flush=True)  # noqa: T201 - a table for a person
