"""The closing line of the crash suite: printed last of all, below what pytest says at its end."""

from dataclasses import asdict
from typing import Any

import pytest

from tests.crash.tally import TALLY, Tally

CARRIED = "crash_tally"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker of pytest-xdist: hand over what was counted to the process that prints."""
    carried = getattr(session.config, "workeroutput", None)
    if carried is not None:
        carried[CARRIED] = asdict(TALLY)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the process that prints: take over what a worker counted, unless it died."""
    carried = getattr(node, "workeroutput", {}).get(CARRIED)
    if carried is not None:
        TALLY.merge(Tally(**carried))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Print the line. `pytest_terminal_summary` comes too early for a last line: pytest's own follows it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not TALLY.empty:
        if TALLY.seed is not None:
            reporter.write_line(f"real kills were sampled from RETRAIN_CRASH_SEED={TALLY.seed}")
        reporter.write_line(TALLY.line())
