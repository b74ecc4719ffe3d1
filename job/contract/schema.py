"""The base of every message on the wire: strict to write, tolerant to read, versioned.

Knows pydantic and nothing else of the project.
"""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

SCHEMA_MAJOR = 1
SCHEMA_VERSION = f"{SCHEMA_MAJOR}.0"


class ContractError(Exception):
    """A message that this version cannot read; the text names the message and what is wrong."""


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None


Utc = Annotated[AwareDatetime, AfterValidator(_to_utc)]
"""A point in time, always with a zone, kept in UTC."""


class Wire(BaseModel):
    """A part of a message. Frozen; a field that does not exist is an error for who writes it."""

    # Not a number and infinity have no JSON: written as null, they could never be read again.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class Message(Wire):
    """A whole message, one object in the bucket. `v` is `major.minor` of the schema."""

    v: str = SCHEMA_VERSION

    def encode(self) -> bytes:
        """Return the message as UTF-8 JSON, presigned URLs in clear: for the wire only."""
        return self.model_dump_json().encode()


COUNT_MAX = 2**53
"""Whole numbers up to here survive every JSON reader and every division."""
Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]

M = TypeVar("M", bound=Message)


def decode(kind: type[M], data: bytes) -> M:
    """Read one message of type `kind` from UTF-8 JSON; fields that this version does not know are dropped.

    Raises ContractError when it is no JSON object, of another major version, or misses what it must have.
    The text never quotes values: a manifest holds bearer URLs.
    """
    check_version(kind.__name__, parse_object(kind.__name__, data))
    try:
        return kind.model_validate_json(data, extra="ignore")
    except ValidationError as error:
        raise ContractError(f"{kind.__name__}: {describe(error)}") from None


def parse_object(name: str, data: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ContractError naming `name` when it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ContractError(f"{name}: not JSON") from None
    if not isinstance(value, dict):
        raise ContractError(f"{name}: not a JSON object")
    return value


def check_version(name: str, fields: dict[str, Any]) -> None:
    """Refuse a message of a major version that this code was not written for (ContractError)."""
    version = fields.get("v")
    major = version.split(".")[0] if isinstance(version, str) else None
    if major != str(SCHEMA_MAJOR):
        raise ContractError(
            f"{name}: schema version {version!r} is not {SCHEMA_MAJOR}.x; "
            "use the same version of retrain on both sides"
        )


def describe(error: ValidationError) -> str:
    """Say which fields are wrong and why, without their values."""
    return "; ".join(
        f"{'.'.join(str(part) for part in detail['loc']) or 'message'}: {detail['msg']}"
        for detail in error.errors(include_input=False, include_url=False, include_context=False)
    )
