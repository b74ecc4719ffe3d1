"""Flags of the settings."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from launcher.cli import options
from launcher.cli.options import FLAGS, SettingsFlags, settings_options
from launcher.errors import Exit, UsageError
from launcher.settings import Settings
from launcher.settings.template import sections

MANUAL_PAGE = {
    "training_zip": "data.zip",
    "output_name": "bespoke_punks_IMPROVED",
    "max_epochs": "10",
    "save_every": "2",
    "resolution": "512,512",
    "batch_size": "4",
    "learning_rate": "0.0001",
    "text_lr": "0.00005",
    "lora_dim": "32",
    "lora_alpha": "16",
    "repeat_count": "10",
    "init_weights": "before.safetensors",
}


def parsed(*arguments: str) -> SettingsFlags:
    seen: list[SettingsFlags] = []

    @click.command()
    @click.option("--detach", is_flag=True)
    @settings_options
    def command(*, flags: SettingsFlags, detach: bool) -> None:
        seen.append(flags)

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception:
        raise result.exception
    return seen[0]


def test_every_flag_is_a_setting() -> None:
    known = {f"{name}.{key}" for name, model in sections() for key in model.model_fields}
    assert {setting for setting, _, _ in FLAGS.values()} <= known


def test_without_flags_nothing_is_overridden() -> None:
    assert parsed() == SettingsFlags(None, {})
    assert parsed("--detach", "--config", "x.toml") == SettingsFlags(Path("x.toml"), {})


def test_the_manual_pages_variables_are_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in MANUAL_PAGE.items()]
    settings = parsed(*arguments, "--set", "run.preset=sd15").load()
    paths = {"training_zip": Path("data.zip"), "init_weights": Path("before.safetensors")}
    assert {name: getattr(settings.run, name) for name in paths} == paths
    recipe = Settings().recipe.model_copy(update={"output_name": "bespoke_punks_IMPROVED"})
    assert settings.recipe == recipe  # the page's values are the defaults


def test_set_reaches_every_setting() -> None:
    flags = parsed(
        "--set", "recipe.seed=7", "--set", "storage.prefix=a=b", "--cap", "3", "--set", "budget.x="
    )
    assert flags.overrides == {
        "recipe": {"seed": "7"},
        "storage": {"prefix": "a=b"},
        "budget": {"x": "", "cap_dollars": "3"},
    }


@pytest.mark.parametrize("wrong", ["seed=7", "=7", "recipe.=7", ".x=1", "recipe.seed", "HUSH", "="])
def test_a_malformed_set_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"not of the form section\.key=value") as caught:
        parsed("--set", wrong)
    assert caught.value.exit_code == Exit.USAGE
    assert "7" not in str(caught.value)
    assert "HUSH" not in str(caught.value)


def test_flags_do_not_show_what_they_hold() -> None:
    assert "HUSH" not in repr(options.SettingsFlags(None, {"storage": {"secret_key": "HUSH"}}))
