"""The corner of GraphQL that retrain uses: `myself`, `pod` and `podTerminate`. Found by pattern, not parsed.

As GraphQL does, errors come with status 200. Their texts are guesses.
"""

import re
from typing import Any

from tests.simulators.runpod import requests
from tests.simulators.runpod.faults import Operation

INPUT = r"\s*\(\s*input\s*:\s*\{\s*podId\s*:\s*(?:\"([^\"]*)\"|\$(\w+))\s*\}\s*\)"
TERMINATE = re.compile(rf"\bpodTerminate{INPUT}")
POD = re.compile(rf"\bpod{INPUT}\s*\{{\s*id\s*\}}")
MYSELF = re.compile(r"\bmyself\s*\{([^{}]*)\}")


def operation_of(query: str) -> Operation:
    """Return what a document asks for."""
    if TERMINATE.search(query):
        return Operation.GRAPHQL_TERMINATE
    if POD.search(query):
        return Operation.GRAPHQL_POD
    return Operation.MYSELF if MYSELF.search(query) else Operation.UNKNOWN


def pod_id_of(asked: requests.GraphQuery) -> str:
    """Return which pod a `podTerminate` or a `pod` is for."""
    found = TERMINATE.search(asked.query) or POD.search(asked.query)
    if found is None:
        return ""
    return found[1] if found[1] is not None else str((asked.variables or {}).get(found[2], ""))


def fields_of(query: str) -> list[str]:
    """Return the fields that a `myself` asks for."""
    found = MYSELF.search(query)
    return found[1].replace(",", " ").split() if found else []


def myself(fields: list[str], values: dict[str, float | None]) -> dict[str, Any]:
    """Return the answer to `myself`."""
    unknown = [name for name in fields if name not in values]
    if unknown:
        return failed(f'Cannot query field "{unknown[0]}" on type "User".')
    return {"data": {"myself": {name: values[name] for name in fields}}}


def pod(pod_id: str) -> dict[str, Any]:
    """Return the answer to `pod`, of which the id alone is asked for."""
    return {"data": {"pod": {"id": pod_id}}}


def terminated() -> dict[str, Any]:
    """Return the answer to a `podTerminate` that was accepted: null, as Void is."""
    return {"data": {"podTerminate": None}}


def failed(message: str) -> dict[str, Any]:
    """Return an error."""
    return {"errors": [{"message": message}]}
