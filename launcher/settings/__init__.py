"""Settings: layers put together into one frozen object, all their problems reported at once.

Lowest first: the defaults, a preset, `retrain.toml`, the environment (`RETRAIN_SECTION__KEY`), flags.
Knows which settings there are and where the examples lie; no provider, no store, no command.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from launcher.errors import UsageError
from launcher.settings import layering
from launcher.settings.layering import Layer
from launcher.settings.model import ENVIRONMENT_PREFIX, NESTING, PresetName, Provider, Settings, preset_of

__all__ = ["CONFIG_NAME", "PresetName", "Provider", "Settings", "example_dir", "find_preset", "load_settings"]

CONFIG_NAME = "retrain.toml"


def load_settings(
    config_path: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> Settings:
    """Put all layers together. `overrides` are the flags: section → key → value.

    Without `config_path`, `retrain.toml` of the working directory is read if there is one.
    Raises UsageError that lists every problem of every layer, a line each, and quotes no secret.
    """
    flags = {section: dict(keys) for section, keys in (overrides or {}).items()}
    layers = [Layer("flags", flags), Layer("environment", _environment())]
    path = config_path or Path(CONFIG_NAME)
    if config_path is not None or path.exists():
        layers.append(layering.read_layer(path))
    layers += _preset_layer(layers)
    problems = layering.unknown_keys(layers, Settings)
    problems += layering.misnamed_variables(os.environ, Settings, prefix=ENVIRONMENT_PREFIX, nesting=NESTING)
    merged = layering.merge(layers)
    try:
        settings = Settings(
            **{section: merged[section] for section in Settings.model_fields if section in merged}
        )
    except ValidationError as error:
        problems += layering.describe(error, layers)
    else:
        if not problems:
            return settings
    raise UsageError(
        "\n  ".join([f"{len(problems)} problem(s) in the settings:", *problems]),
        next_step="correct them; docs/settings.md lists every setting",
    )


def find_preset(name: PresetName) -> Path | None:
    """Return the preset's file; None for the one that is the model's own defaults.

    Raises UsageError where retrain is installed without its examples.
    """
    return None if name is PresetName.SD15 else example_dir(name.value) / "preset.toml"


def example_dir(name: str = PresetName.TINYPUNKS.value) -> Path:
    """Return the folder of an example that comes with retrain: data set, base model, ruler, preset.

    Looked for beside the sources, then in the working directory. Raises UsageError when it is in neither.
    """
    for root in (Path(__file__).parents[2], Path.cwd()):
        folder = root / "examples" / name
        if folder.is_dir():
            return folder
    raise UsageError(
        f"the example {name} is not here: this retrain was installed without its repository",
        next_step="run in a clone of the repository, or set a training zip, a base model and preset sd15",
    )


def _preset_layer(layers: list[Layer]) -> list[Layer]:
    """Find the lowest layer by what the upper ones say; a preset nobody asked for may be absent."""
    chosen = layering.lookup(layers, "run", "preset")
    provider = layering.lookup(layers, "run", "provider") or Provider.PROCESS
    try:
        name = PresetName(chosen) if chosen else preset_of(Provider(provider))
    except ValueError:
        return []  # validation says what is wrong with it
    try:
        path = find_preset(name)
    except UsageError:
        if chosen:
            raise
        return []
    if path is None or not (chosen or path.exists()):
        return []
    return [layering.read_layer(path)]


def _environment() -> dict[str, Any]:
    """Return the tables that the environment sets. Names without `__` are none: RETRAIN_FLAGS is make's."""
    source = EnvSettingsSource(Settings)
    source.env_vars = {name: value for name, value in source.env_vars.items() if NESTING in name}
    tables: dict[str, Any] = source()
    for name in source.env_vars:
        if name.startswith(ENVIRONMENT_PREFIX.lower()):
            section = name.removeprefix(ENVIRONMENT_PREFIX.lower()).split(NESTING)[0]
            if section not in Settings.model_fields:
                tables[section] = {}  # so that a misspelt section is reported and not passed over
    return tables
