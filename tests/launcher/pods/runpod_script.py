"""A RunPod that answers by a script, and fails on a call that nobody scripted."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import SecretStr

from launcher.pods.runpod_api import RunpodApi
from launcher.pods.runpod_request import CreatePod, GpuRequest
from tests.launcher.pods import runpod_contract

KEY = "rpa_PLANTEDKEY0123456789abcdefghijklmnop"
LINK = "https://bucket.example/manifest.json?X-Amz-Signature=5ca1ab1e5ca1ab1e5ca1ab1e"
Step = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]

POD: dict[str, Any] = {
    "id": "7h9k2m4n6p",
    "name": "retrain-a-1",
    "image": "ghcr.io/example/retrain:1",
    "args": "",
    "disk": 50,
    "ports": [],
    "env": {"RETRAIN_MANIFEST": LINK},
    "registry": None,
    "status": "PROVISIONING",
    "actions": ["stop", "terminate"],
    "mounts": {},
    "gpu": {"id": "NVIDIA A40", "count": 1},
    "cloud": "SECURE",
    "dataCenterId": None,
    "cudaVersion": None,
    "ssh": {"proxy": None, "direct": None},
    "template": None,
    "cost": 0.44,
    "locked": False,
    "globalNetworking": {"enabled": False},
    "runtime": None,
    "createdAt": "2026-06-01T12:00:00Z",
    "startedAt": None,
}
GPU: dict[str, Any] = {
    "id": "NVIDIA A40",
    "name": "A40",
    "pool": "AMPERE_48",
    "manufacturer": "NVIDIA",
    "memory": 48,
    "secure": True,
    "community": False,
    "price": {"secure": 0.44, "community": 0.0},
    "maxCount": {"secure": 8, "community": 0},
    "availability": "LOW",
    "dataCenters": [{"id": "EU-SE-1", "name": "Sweden", "availability": "LOW"}],
    "cudaVersions": [{"version": "12.8", "available": True}],
}
REQUEST = CreatePod(
    name="retrain-a-1",
    image="ghcr.io/example/retrain:1",
    gpu=GpuRequest(id="NVIDIA A40", min_cuda_version="12.8"),
    disk=50,
    env={"RETRAIN_MANIFEST": SecretStr(LINK)},
)


def ok(document: object, status: int = 200) -> httpx.Response:
    """An answer as agreed."""
    return httpx.Response(status, json=document, extensions={"agreed": True})


def problem(status: int, detail: str = "it is so", **headers: str) -> httpx.Response:
    """A refusal as agreed."""
    return httpx.Response(
        status,
        content=json.dumps({"title": "No", "status": status, "detail": detail}),
        headers={"content-type": "application/problem+json"}
        | {name.replace("_", "-"): value for name, value in headers.items()},
        extensions={"agreed": True},
    )


def events(text: str) -> httpx.Response:
    """A log as agreed."""
    return httpx.Response(
        200, content=text, headers={"content-type": "text/event-stream"}, extensions={"agreed": True}
    )


@dataclass
class Script:
    """Answers in order. Requests, and answers that are meant as agreed, are held against the document."""

    steps: list[Step]
    requests: list[httpx.Request] = field(default_factory=list)
    beyond_document: bool = False
    """For what newer deployments are said to do."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        assert self.steps, f"not scripted: {request.method} {request.url}"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        if not self.beyond_document:
            runpod_contract.check_request(request)
        step = self.steps.pop(0)
        if isinstance(step, httpx.RequestError):
            step.request = request
        if isinstance(step, Exception):
            raise step
        response = step if isinstance(step, httpx.Response) else step(request)
        if response.extensions.get("agreed") and not self.beyond_document:
            runpod_contract.check_answer(request, response)
        return response


@dataclass
class Naps:
    """A Clock that does not wait, and moves on while an answer is read."""

    naps: list[float] = field(default_factory=list)
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def connected(*steps: Step, beyond_document: bool = False) -> tuple[RunpodApi, Script, Naps]:
    script, naps = Script(list(steps), beyond_document=beyond_document), Naps()
    return RunpodApi(SecretStr(KEY), clock=naps, transport=httpx.MockTransport(script)), script, naps
