"""Layers of settings: reading one from TOML, merging them, and saying what is wrong with them.

Knows TOML and pydantic's errors; not which settings there are. Quotes keys, never values: some are secrets.
"""

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from launcher.errors import UsageError

FILE_BYTES_MAX = 1_000_000


@dataclass(frozen=True)
class Layer:
    """One source of settings: section → key → value."""

    origin: str
    """Where it comes from, for people."""
    tables: dict[str, Any]


def read_layer(path: Path) -> Layer:
    """Read a TOML file. Raises UsageError that names the file and the line."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"{path}: cannot be read: {reason}", next_step="retrain init writes one") from error
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"{path}: is too large for a file of settings", next_step="name the right file")
    try:
        tables = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line} is not UTF-8", next_step="save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # The decoder says what and where ("... (at line 3, column 5)"), and quotes no value.
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{path}: not valid TOML: {what}", next_step="correct that line") from None
    return Layer(str(path), tables)


def merge(layers: Sequence[Layer]) -> dict[str, Any]:
    """Lay the tables over one another, `layers` from highest to lowest."""
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        for section, value in layer.tables.items():
            below = merged.get(section)
            both = isinstance(value, dict) and isinstance(below, dict)
            merged[section] = {**below, **value} if both and below is not None else value
    return merged


def lookup(layers: Sequence[Layer], section: str, key: str) -> Any:
    """Return the value that the highest layer gives, or None."""
    for layer in layers:
        table = layer.tables.get(section)
        if isinstance(table, dict) and key in table:
            return table[key]
    return None


def unknown_keys(layers: Sequence[Layer], model: type[BaseModel]) -> list[str]:
    """Return a line for every section and key that the model does not have, with the nearest one it has."""
    problems = []
    for layer in layers:
        for section, table in layer.tables.items():
            if section not in model.model_fields:
                name = f"[{section}]" if isinstance(table, dict) else section
                near = _nearest(section, model.model_fields) or _homes_of(section, model)
                problems.append(f"{name}: no such section{near} (from {layer.origin})")
                continue
            kind = model.model_fields[section].annotation
            if not (isinstance(table, dict) and isinstance(kind, type) and issubclass(kind, BaseModel)):
                continue
            for key in table:
                if key not in kind.model_fields:
                    near = _homes_of(key, model) or _nearest(key, kind.model_fields)
                    problems.append(f"{section}.{key}: no such setting{near} (from {layer.origin})")
    return problems


def misnamed_variables(
    names: Iterable[str], model: type[BaseModel], *, prefix: str, nesting: str
) -> list[str]:
    """Return a line for every variable that names a setting and not its section, or with one `_` between.

    Such a variable would have no effect, and nobody would know.
    """
    meant: dict[str, list[str]] = {}
    for section, field in model.model_fields.items():
        kind = field.annotation
        for key in kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else ():
            right = f"{prefix}{section}{nesting}{key}".upper()
            for wrong in (key, f"{section}_{key}"):
                meant.setdefault(f"{prefix}{wrong}".upper(), []).append(right)
    return [
        f"{name}: no such variable; did you mean {' or '.join(meant[name.upper()])}? (from environment)"
        for name in sorted(names)
        if name.upper() in meant
    ]


def describe(error: ValidationError, layers: Sequence[Layer]) -> list[str]:
    """Return a line for every value that is wrong; unknown keys are left to `unknown_keys`."""
    problems = []
    for detail in error.errors(include_input=False, include_url=False, include_context=False):
        if detail["type"] == "extra_forbidden":
            continue
        parts = [str(part) for part in detail["loc"]]
        message = detail["msg"].removeprefix("Value error, ")
        origin = _origin(layers, parts)
        problems.append(f"{'.'.join(parts)}: {message[:1].lower()}{message[1:]}{origin}")
    return problems


def _origin(layers: Sequence[Layer], parts: Sequence[str]) -> str:
    for layer in layers:
        table = layer.tables.get(parts[0]) if parts else None
        if table is not None and (len(parts) < 2 or not isinstance(table, dict) or parts[1] in table):
            return f" (from {layer.origin})"
    return ""


def _nearest(name: str, names: Sequence[str] | dict[str, Any]) -> str:
    near = difflib.get_close_matches(name.lower(), list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _homes_of(key: str, model: type[BaseModel]) -> str:
    """Say in which section the key exists, if in any."""
    for section, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and key in kind.model_fields:
            return f"; did you mean {section}.{key}?"
    return ""
