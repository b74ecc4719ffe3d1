"""A start that nobody watches: refused without proof, in words that lead on."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from job.contract import keys
from job.contract.schema import decode
from launcher.cli.attendance import require_watched
from launcher.cli.root import execute
from launcher.ending.unattended import ReaperBeat, fingerprint
from launcher.errors import Exit, Leaked, ObjectMissing, UsageError
from launcher.model import RunRecord
from launcher.settings import Settings
from launcher.settings.model import Provider, Run
from launcher.storage.s3 import S3Store
from tests.fakes.pods import Notes
from tests.fakes.store import FakeStore
from tests.simulators.runpod import Operation, Simulator, Trouble

RENTED = Settings(run=Run(provider=Provider.RUNPOD))


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_TESTS")


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


def test_a_reaper_shows_itself_in_the_bucket_when_nothing_is_left_due(
    place: None, cloud: Simulator, embedded_store: S3Store, capsys: pytest.CaptureFixture[str]
) -> None:
    key = keys.reaper_key("mine")
    assert execute(["reap"]) == 0
    with pytest.raises(ObjectMissing):
        embedded_store.get(key)
    assert execute(["reap", "--yes"]) == 0
    first = decode(ReaperBeat, embedded_store.get(key)[0])
    assert first.previous_at is None
    assert first.account == fingerprint(SecretStr(cloud.account_key))
    assert execute(["reap", "--yes"]) == 0
    assert decode(ReaperBeat, embedded_store.get(key)[0]).previous_at == first.at
    cloud.trouble(Trouble.SERVER_ERROR, Operation.LIST, times=None)
    assert execute(["reap", "--yes"]) == 6
    assert decode(ReaperBeat, embedded_store.get(key)[0]).previous_at == first.at


def test_a_leak_of_a_detached_start_is_shown_by_later_commands(
    place: None, cloud: Simulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(*_: object, **__: object) -> RunRecord:
        raise Leaked("LEAKED: pod 1 may still run", pods={"retrain-x": ["1"]}, on_record=True)

    monkeypatch.setattr("launcher.loop.Loop.drive", leaking)
    monkeypatch.setattr("launcher.cli.watch.guard", lambda *_: None)
    assert execute(["run", "--detach", "--accept-risk", "--preset", "tinypunks"]) == Exit.LEAKED
    capsys.readouterr()
    execute(["doctor"])
    assert "LEAKED: pod 1" in capsys.readouterr().err


def test_a_gpu_that_runpod_does_not_have_is_no_silent_choice_of_another(
    place: None, cloud: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preset", "tinypunks", "--set", "runpod.gpus=NVIDIA A4O, NVIDIA L40S"]
    assert execute(["run", *flags]) == Exit.USAGE
    told = capsys.readouterr().err
    assert "no GPU type 'NVIDIA A4O'; is it 'NVIDIA A40'?" in told and "runpod.gpus" in told
    assert not cloud.pods
