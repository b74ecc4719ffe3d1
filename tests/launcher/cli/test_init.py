"""`retrain init`: a file that explains every setting and changes none."""

import re
import tomllib
from pathlib import Path

import pytest

from launcher.cli.root import execute
from launcher.errors import Exit
from launcher.settings import Settings, load_settings
from launcher.settings.model import Clocks
from launcher.settings.template import field_docs, sections, template

DOCS = Path(__file__).parents[3] / "docs" / "settings.md"


def test_every_setting_is_there_and_explained() -> None:
    for _, model in sections():
        assert set(field_docs(model)) == set(model.model_fields)
    text = template()
    for name, model in sections():
        assert f"\n[{name}]\n" in text
        for key in model.model_fields:
            assert re.search(rf"^# .*\n#{key} =", text, re.MULTILINE), f"{name}.{key}"


def test_the_defaults_in_it_are_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^#(\w+ = \S)", r"\1", template(), flags=re.MULTILINE))
    written = tomllib.loads(path.read_text())
    assert set(written["clocks"]) == set(Clocks.model_fields)
    written["run"]["preset"] = "sd15"
    settings = load_settings(path, {"run": {"preset": "sd15"}})
    defaults = Settings()
    assert settings.model_copy(update={"run": settings.run.model_copy(update={"preset": None})}) == defaults


def test_it_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = load_settings()
    assert execute(["init"]) == Exit.DONE
    assert load_settings() == before
    assert [path.name for path in tmp_path.iterdir()] == ["retrain.toml"]


def test_a_file_that_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "retrain.toml"
    path.write_text("# mine\n")
    assert execute(["init"]) == Exit.USAGE
    assert capsys.readouterr() == (
        "",
        "retrain: retrain.toml is already there\n  next: give --force to overwrite it\n",
    )
    assert path.read_text() == "# mine\n"
    assert execute(["init", "--force"]) == Exit.DONE
    assert path.read_text() == template()
    assert execute(["init", "-o", "absent/retrain.toml"]) == Exit.USAGE
    assert "cannot be written: No such file or directory" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["retrain.toml"]


def test_the_manual_names_every_setting() -> None:
    text = DOCS.read_text()
    for name, model in sections():
        assert f"`[{name}]`" in text
        for key in model.model_fields:
            assert f"| `{key}` |" in text, f"{name}.{key}"
