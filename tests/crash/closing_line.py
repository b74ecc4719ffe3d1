"""The closing lines of crash suite and fault matrix: printed last of all, below what pytest says."""

from dataclasses import asdict
from typing import Any

import pytest

from tests.crash import tally as crash
from tests.matrix import tally as matrix

CARRIED = "closing_lines"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker of pytest-xdist: hand over what was counted to the process that prints."""
    carried = getattr(session.config, "workeroutput", None)
    if carried is not None:
        carried[CARRIED] = [asdict(crash.TALLY), asdict(matrix.TALLY)]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the process that prints: take over what a worker counted, unless it died."""
    carried = getattr(node, "workeroutput", {}).get(CARRIED)
    if carried is not None:
        crash.TALLY.merge(crash.Tally(**carried[0]))
        matrix.TALLY.merge(matrix.Tally(**carried[1]))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Print them. `pytest_terminal_summary` comes too early for a last line: pytest's own follows it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    if crash.TALLY.seed is not None:
        reporter.write_line(f"real kills were sampled from RETRAIN_CRASH_SEED={crash.TALLY.seed}")
    for tally in (crash.TALLY, matrix.TALLY):
        if not tally.empty:
            reporter.write_line(tally.line())
