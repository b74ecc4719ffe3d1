"""What every section of the settings is made of: the table's base class and the types of its values."""

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600, allow_inf_nan=False)]
Dollars = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


PATH_BYTES_MAX = 3000
"""Leaves room below it on every system for the names of our own."""
NAME_BYTES_MAX = 255


def _home_expanded(value: object) -> object:
    if value == "":
        raise ValueError("must not be empty; leave it out")  # Path("") would be the working directory
    return Path(value).expanduser() if isinstance(value, str) and value.startswith("~/") else value


def _possible(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("holds a character that no path can have")
    encoded = os.fsencode(path)
    if len(encoded) > PATH_BYTES_MAX or any(len(part) > NAME_BYTES_MAX for part in encoded.split(b"/")):
        raise ValueError("is too long for a path")
    return path


FilePath = Annotated[Path, BeforeValidator(_home_expanded), AfterValidator(_possible)]
"""Relative to the directory in which the command runs; `~/` is the home directory."""


def _is_endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        found = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        found = False
    if not found:
        raise ValueError("must be a URL such as https://host or http://host:9000")
    return url


Endpoint = Annotated[str, Field(pattern=r"^https?://[^\s?#]+$"), AfterValidator(_is_endpoint)]


class Section(BaseModel):
    """A table of `retrain.toml`. Frozen; its errors never quote a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)
