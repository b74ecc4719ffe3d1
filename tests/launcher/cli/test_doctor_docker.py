"""`retrain doctor` on a Docker engine: whether it answers, has the image, and what to do if not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.root import execute
from launcher.errors import Exit
from launcher.storage.embedded import EmbeddedServer
from tests.docker.fake_engine import FakeEngine, serve
from tests.launcher.storage.servers import clean

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRAIN_RUN__PROVIDER", "docker")
    with serve() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.address)
        yield fake
    clean(EmbeddedServer(tmp_path / ".retrain" / "store"))


def doctor(capsys: pytest.CaptureFixture[str], image: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code = execute(["doctor", "--json", "--set", f"pod.image={image}"])
    return code, {item["check"]: item for item in json.loads(capsys.readouterr().out)}


def test_engine_and_image_are_told(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = doctor(capsys, "sleeper")
    assert code == Exit.DONE
    assert found["docker"]["detail"] == "Docker 26.1 on fake, no GPU" and found["image"]["ok"] is True
    _, found = doctor(capsys, "elsewhere")
    assert found["image"]["ok"] is None and found["image"]["fix"] == "the first run pulls it"


def test_an_engine_that_does_not_answer_is_told(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    code, found = doctor(capsys, "sleeper")
    assert code == Exit.INFRASTRUCTURE and found["docker"]["ok"] is False
    assert (
        "no Docker engine answers" in found["docker"]["detail"] and "start Docker" in found["docker"]["fix"]
    )
