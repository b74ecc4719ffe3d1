"""Settings: layers, every problem at once, no secret in any of them."""

import os
from pathlib import Path
from typing import Any

import pytest

from launcher import settings as module
from launcher.errors import Exit, UsageError
from launcher.settings import PresetName, Provider, Settings, example_dir, find_preset, load_settings

SECRET = "wJalrXUtnFEMI"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing in it, no preset, no settings in the environment."""
    for name in list(os.environ):
        if name.startswith("RETRAIN_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "find_preset", lambda name: None)
    return tmp_path


def refused(**arguments: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_settings(**arguments)
    assert caught.value.exit_code == Exit.USAGE
    assert SECRET not in str(caught.value) + caught.value.next_step
    return caught.value


def test_defaults_are_the_models() -> None:
    assert load_settings() == Settings()
    assert load_settings().run.provider is Provider.PROCESS
    assert load_settings().recipe.model_fields_set == set()


def test_each_layer_lies_over_the_one_below(
    alone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    preset = tmp_path / "preset.toml"
    preset.write_text("[recipe]\nmax_epochs = 1\nsave_every = 1\nbatch_size = 1\nlora_dim = 1\n")
    monkeypatch.setattr(module, "find_preset", lambda name: preset)
    (alone / "retrain.toml").write_text("[recipe]\nsave_every = 2\nbatch_size = 2\nlora_dim = 2\n")
    monkeypatch.setenv("RETRAIN_RECIPE__BATCH_SIZE", "3")
    monkeypatch.setenv("RETRAIN_RECIPE__LORA_DIM", "3")
    recipe = load_settings(overrides={"recipe": {"lora_dim": "4"}}).recipe
    assert (recipe.max_epochs, recipe.save_every, recipe.batch_size, recipe.lora_dim) == (1, 2, 3, 4)
    assert recipe.model_fields_set == {"max_epochs", "save_every", "batch_size", "lora_dim"}
    assert recipe.learning_rate == Settings().recipe.learning_rate


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("512,512", (512, 512)),
        ("256, 512", (256, 512)),
        ("64", (64, 64)),
        (64, (64, 64)),
        ([64, 128], (64, 128)),
    ],
)
def test_resolution_is_read_as_the_manual_page_writes_it(given: object, read: tuple[int, int]) -> None:
    assert load_settings(overrides={"recipe": {"resolution": given}}).recipe.resolution == read


def test_all_problems_of_all_layers_are_listed(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone / "retrain.toml").write_text(
        '[recipe]\nmax_epoch = 3\n[budjet]\nx = 1\n[run]\ncap_dollars = 5\nnamespace = "NOT"\n'
    )
    monkeypatch.setenv("RETRAIN_BUDGET__MAX_HOURS", "-1")
    monkeypatch.setenv("RETRAIN_STORRAGE__SECRET_KEY", SECRET)
    monkeypatch.setenv("RETRAIN_FLAGS", "is make's")
    monkeypatch.setenv("RETRAIN_RUN", "is nobody's")
    error = refused(overrides={"recipe": {"resolution": "512,abc", "batch_size": "0"}})
    lines = str(error).splitlines()
    assert lines[0] == "8 problem(s) in the settings:"
    for part in (
        "recipe.max_epoch: no such setting; did you mean max_epochs? (from retrain.toml)",
        "[budjet]: no such section; did you mean budget? (from retrain.toml)",
        "run.cap_dollars: no such setting; did you mean budget.cap_dollars? (from retrain.toml)",
        "[storrage]: no such section; did you mean storage? (from environment)",
        "run.namespace: ",
        "budget.max_hours: input should be greater than 0 (from environment)",
        "recipe.batch_size: input should be greater than or equal to 1 (from flags)",
        "recipe.resolution.1: ",
    ):
        assert sum(part in line for line in lines) == 1, part


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'[run]\nnamespace = "x\n', "line 2"),
        (b'[storage]\nsecret_key = "wJalrXUtnFEMI" oops\n', "line 2"),
        (b"[run]\n# \xff\n", "line 2 is not UTF-8"),
        (b"a = " + b"[" * 5000, "not valid TOML"),
        (b"x = 1\n", "x: no such section"),
        (b'run = "x"\n', "run: input should be a valid dictionary"),
        (b'_env_file = "x"\n', "_env_file: no such section"),
        (b"_cli_parse_args = true\n", "_cli_parse_args: no such section"),
        (
            b'[storage]\nsecret_key = "wJalrXUtnFEMI"\n',
            "storage: access_key and secret_key must be set together",
        ),
        (b'[storage]\nendpoint_url = "https://x/?k=wJalrXUtnFEMI"\n', "storage.endpoint_url: "),
        (b'[storage]\nendpoint_url = "https://x"\n', "endpoint_url needs a bucket"),
        (b'[storage]\nbucket = "wJalrXUtnFEMI"\n', "storage.bucket: "),
        (b'[run]\nprovider = "wJalrXUtnFEMI"\n', "run.provider: input should be 'process'"),
        (b"[budget]\ncap_dollars = nan\n", "budget.cap_dollars: input should be a finite number"),
        (b"[budget]\nmax_hours = 0.1\n", "budget: teardown_reserve_minutes must be shorter than max_hours"),
        (b"[clocks]\nboot = 5000\n", "clocks: boot must not be longer than boot_hard"),
        (b"[recipe]\nresolution = [510, 512]\n", "recipe: resolution: both sides must be multiples of 8"),
        (b"[recipe]\nresolution = [1, 2, 3]\n", "recipe.resolution"),
    ],
)
def test_a_bad_file_is_named_and_not_quoted(alone: Path, text: bytes, said: str) -> None:
    (alone / "retrain.toml").write_bytes(text)
    error = refused()
    assert said in str(error)
    assert "retrain.toml" in str(error)
    assert error.next_step


def test_a_file_that_was_asked_for_must_be_there(alone: Path) -> None:
    assert "missing.toml: cannot be read" in str(refused(config_path=Path("missing.toml")))
    assert "cannot be read" in str(refused(config_path=alone))


def test_secrets_are_not_shown() -> None:
    storage = {"bucket": "runs", "access_key": "AK", "secret_key": SECRET, "session_token": SECRET}
    settings = load_settings(overrides={"storage": storage})
    assert settings.storage.secret_key is not None
    assert settings.storage.secret_key.get_secret_value() == SECRET
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


def test_the_preset_follows_the_provider_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[PresetName] = []
    monkeypatch.setattr(module, "find_preset", asked.append)
    assert load_settings().preset is PresetName.TINYPUNKS
    assert load_settings(overrides={"run": {"preset": "sd15"}}).preset is PresetName.SD15
    assert asked == [PresetName.TINYPUNKS, PresetName.SD15]


def test_a_home_directory_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = load_settings(overrides={"run": {"training_zip": "~/data.zip"}})
    assert settings.run.training_zip == Path("/home/somebody/data.zip")


def test_without_its_examples_retrain_still_reads_settings(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_preset", find_preset)
    monkeypatch.setattr(
        module, "__file__", str(alone / "elsewhere" / "launcher" / "settings" / "__init__.py")
    )
    assert load_settings() == Settings()
    assert "was installed without its repository" in str(refused(overrides={"run": {"preset": "tinypunks"}}))
    (alone / "examples" / "tinypunks").mkdir(parents=True)
    assert example_dir() == alone / "examples" / "tinypunks"
