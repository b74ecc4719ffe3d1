"""Requests that the tests of the simulator send again and again."""

from typing import Any

import httpx

from tests.simulators.runpod.ledger import HOURS_PER_MONTH

A40 = "NVIDIA A40"
DISK_GB = 40
DISK_RATE = DISK_GB * 0.1 / HOURS_PER_MONTH
"""US dollars an hour."""
A40_RATE = 0.49 + DISK_RATE
"""What an hour of the usual pod is billed."""


def wanted(name: str = "night", **more: Any) -> dict[str, Any]:
    gpu = more.pop("gpu", {"id": A40, "count": 1})
    return {"name": name, "image": "registry/image:1", "gpu": gpu, "disk": DISK_GB, **more}


def rent(api: httpx.Client, name: str = "night", **more: Any) -> dict[str, Any]:
    answer = api.post("/v2/pods", json=wanted(name, **more))
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def names(api: httpx.Client, **query: Any) -> list[str]:
    return [pod["name"] for pod in api.get("/v2/pods", params=query).raise_for_status().json()["pods"]]


def status(api: httpx.Client, pod_id: str) -> str:
    found: str = api.get(f"/v2/pods/{pod_id}").raise_for_status().json()["status"]
    return found


def graph(api: httpx.Client, query: str, **variables: Any) -> httpx.Response:
    return api.post(
        "/graphql", json={"query": query, "variables": variables} if variables else {"query": query}
    )


def end_by_graph(api: httpx.Client, pod_id: str) -> httpx.Response:
    return graph(api, f'mutation {{ podTerminate(input: {{ podId: "{pod_id}" }}) }}')
