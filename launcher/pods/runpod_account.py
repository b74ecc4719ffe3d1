"""What only the `runpod` package and RunPod's old GraphQL API have: the stored key and the account's balance.

REST v2 has neither. GraphQL retires early in 2027: then this module goes, with `runpod.require_balance`.
The package is imported when it is needed, for that takes more than a second.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from launcher.errors import PodError

_QUERY = "query { myself { clientBalance currentSpendPerHr } }"
_NEXT_STEP = "try again, or set runpod.require_balance = false to rent without having seen the balance"


@dataclass(frozen=True)
class Balance:
    """What an account has."""

    dollars: float
    """US dollars left."""
    spend_per_hour: float
    """US dollars an hour that all its pods cost now, strangers' too."""


def stored_key() -> SecretStr | None:
    """Return the API key that `runpod config` stored for its default profile, None where there is none."""
    try:
        with _logging_kept():
            import runpod
    except Exception:  # noqa: BLE001 - it reads its file when imported, and fails as that file is broken
        return None
    key = runpod.api_key
    return SecretStr(key) if isinstance(key, str) and key else None


def balance(key: SecretStr) -> Balance:
    """Ask for the account's balance. Raises PodError unless both numbers came: what is unknown is not enough.

    The address is the one that RUNPOD_API_BASE_URL names, as for REST v2.
    """
    numbers: tuple[object, ...] = ()
    why = "an answer without the numbers that were asked for"
    try:
        with _logging_kept():
            from runpod.api.graphql import run_graphql_query

        myself = run_graphql_query(_QUERY, api_key=key.get_secret_value())["data"]["myself"]
        numbers = (myself["clientBalance"], myself["currentSpendPerHr"])
    except Exception as error:  # noqa: BLE001 - requests', JSON's and the package's own errors come through
        why = type(error).__name__
    known = [float(number) for number in numbers if isinstance(number, int | float) and math.isfinite(number)]
    if len(known) == 2:
        return Balance(*known)
    # Raised out here: the package's errors quote what was sent, and their frames hold the key.
    raise PodError(f"RunPod did not tell the account's balance ({why})", next_step=_NEXT_STEP)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Undo that the package, once imported, lets every library log to stderr: each request, over the view."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
