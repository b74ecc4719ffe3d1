"""Commands side by side on one local store: none stops it under another."""

from pathlib import Path

import pytest

from job.contract import keys
from launcher.cli.narrator import Narrator
from launcher.cli.wiring import workplace
from launcher.settings import Settings, load_settings
from launcher.storage.embedded import EmbeddedServer


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings(
        None, {"run": {"workspace": tmp_path / ".retrain", "models_dir": tmp_path / "models"}}
    )


@pytest.mark.slow
def test_a_second_command_does_not_stop_it_under_one_that_is_staging(settings: Settings) -> None:
    with workplace(settings, Narrator()) as staging:
        staging.world.store.put("runs/x/inputs/base.zip", b"first input")
        with workplace(settings, Narrator()):
            pass
        assert staging.world.store.get("runs/x/inputs/base.zip")[0] == b"first input"
    assert staging.server is not None
    assert not staging.server.is_running()


@pytest.mark.slow
def test_a_record_that_nobody_can_read_keeps_it_running(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    server = EmbeddedServer(settings.run.workspace / "store")
    try:
        with workplace(settings, Narrator()) as place:
            place.world.store.put(keys.record_key("20260101-old"), b'{"v": "2.0"}')
        assert server.is_running()
        assert "goes on running" in capsys.readouterr().err
    finally:
        server.stop()
