"""A start that nobody watches: refused without proof, in words that lead on."""

from pathlib import Path

import pytest

from launcher.cli.attendance import require_watched
from launcher.cli.root import execute
from launcher.errors import UsageError
from launcher.settings import Settings
from launcher.settings_model import Provider, Run
from tests.fakes.pods import Notes
from tests.fakes.store import FakeStore
from tests.simulators.runpod import Simulator

RENTED = Settings(run=Run(provider=Provider.RUNPOD))


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def start(settings: Settings = RENTED, *, detach: bool = True, accept_risk: bool = False) -> list[str]:
    notes = Notes()
    require_watched(settings, FakeStore(), notes, detach=detach, accept_risk=accept_risk)
    return notes.lines


def test_a_detached_start_wants_proof() -> None:
    with pytest.raises(UsageError, match="nobody would watch"):
        start()


def test_so_does_one_by_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not start(detach=False)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(UsageError, match="nobody would watch"):
        start(detach=False)


def test_the_risk_may_be_accepted_and_is_told() -> None:
    (line,) = start(accept_risk=True)
    assert "on trust" in line


def test_a_pod_of_this_machine_costs_nothing_and_needs_none() -> None:
    assert not start(Settings())


def test_the_command_refuses_before_anything_is_uploaded_or_rented(
    place: None, cloud: Simulator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert execute(["run", "--detach", "--preset", "tinypunks"]) == 2
    told = capsys.readouterr().err
    assert "--live-canary" in told
    assert "uploading" not in told
    assert not cloud.pods
