"""What is asked of RunPod, with which key, at which address."""

import json
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from launcher import __version__
from launcher.errors import UsageError
from launcher.pods.runpod_api import RunpodApi
from launcher.pods.runpod_models import (
    Cloud,
    PodStatus,
)
from launcher.pods.runpod_request import CreatePod, GpuRequest, Mounts, NetworkMount, PersistentMount
from tests.launcher.pods.runpod_script import (
    KEY,
    LINK,
    POD,
    REQUEST,
    Script,
    connected,
    ok,
)


def test_a_create_says_what_it_wants_and_no_more() -> None:
    api, script, _ = connected(ok(POD, 201))
    pod = api.create(REQUEST)
    assert (pod.id, pod.status, pod.cost) == ("7h9k2m4n6p", PodStatus.PROVISIONING, 0.44)
    request = script.requests[0]
    assert (request.method, str(request.url)) == ("POST", "https://api.runpod.io/v2/pods")
    assert request.headers["user-agent"] == f"retrain/{__version__}"
    assert json.loads(request.content) == {
        "name": "retrain-a-1",
        "image": "ghcr.io/example/retrain:1",
        "gpu": {"id": "NVIDIA A40", "count": 1, "minCudaVersion": "12.8"},
        "cloud": "SECURE",
        "disk": 50,
        "env": {"RETRAIN_MANIFEST": LINK},
        "ports": [],
        "dataCenterIds": [],
    }


@pytest.mark.parametrize(
    "mounts",
    [
        Mounts(persistent=PersistentMount(size=20, path="/workspace")),
        Mounts(network=(NetworkMount(volume_id="vol_xyz", path="/runpod-volume"),)),
    ],
)
def test_a_create_with_everything_is_as_agreed(mounts: Mounts) -> None:
    wanted = REQUEST.model_copy(
        update={
            "cloud": Cloud.COMMUNITY,
            "args": "run --all",
            "ports": ("22/tcp",),
            "registry": "reg1",
            "data_center_ids": ("EU-SE-1", "EU-RO-1"),
            "mounts": mounts,
        }
    )
    api, script, _ = connected(ok(POD, 201))
    api.create(wanted)
    sent = json.loads(script.requests[0].content)
    assert sent["cloud"] == "COMMUNITY" and sent["dataCenterIds"] == ["EU-SE-1", "EU-RO-1"]
    assert list(sent["mounts"]) in (["persistent"], ["network"])


@pytest.mark.parametrize(
    "change",
    [
        {"terminateAfter": "2026-06-01T12:00:00Z"},
        {"cloud": "UNKNOWN"},
        {"name": ""},
        {"disk": 0},
        {"gpu": {"id": "NVIDIA A40", "count": 0}},
        {"gpu": {"id": "NVIDIA A40", "minCudaVersion": "12"}},
        {"gpu": {"id": "NVIDIA A40", "spot": True}},
        {"env": {f"V{n}": "x" for n in range(51)}},
        {"mounts": {"persistent": {"size": 9, "path": "/w"}}},
        {"mounts": {"network": []}},
        {
            "mounts": {
                "persistent": {"size": 10, "path": "/w"},
                "network": [{"volumeId": "v", "path": "/n"}],
            }
        },
    ],
)
def test_a_wrong_create_cannot_be_written_down(change: dict[str, Any]) -> None:
    right = {"name": "a", "image": "i", "gpu": {"id": "NVIDIA A40"}, "disk": 5, "env": {"A": LINK}}
    CreatePod.model_validate(right)
    with pytest.raises(ValidationError) as caught:
        CreatePod.model_validate(right | change)
    assert LINK not in str(caught.value)


def test_gpu_count_is_always_sent() -> None:
    request = CreatePod(name="a", image="i", gpu=GpuRequest(id="NVIDIA L4"), disk=5)
    assert json.loads(request.wire())["gpu"] == {"id": "NVIDIA L4", "count": 1}


@pytest.mark.parametrize("key", ["", "with space", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_one(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        RunpodApi(SecretStr(key))
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example/v2",
        "https://user:word@api.example/v2",
        "https://api.example/v2?key=1",
        "ftp://127.0.0.1",
        "api.example",
        "https://[::1",
        "https://api.example:port/",
    ],
)
def test_the_key_goes_to_no_doubtful_address(url: str) -> None:
    with pytest.raises(UsageError, match="https URL"):
        RunpodApi(SecretStr(KEY), base_url=url)


def test_another_address_can_be_given() -> None:
    script = Script([ok({"pods": []})], beyond_document=True)
    transport = httpx.MockTransport(script)
    with RunpodApi(SecretStr(KEY), base_url="http://127.0.0.1:8080/api", transport=transport) as api:
        assert api.pods() == []
    assert str(script.requests[0].url) == "http://127.0.0.1:8080/api/pods"


def test_a_proxy_that_cannot_be_used_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://me:pr0xyword@proxy.example")
    with pytest.raises(UsageError, match="proxy") as caught:
        RunpodApi(SecretStr(KEY))
    assert "pr0xyword" not in f"{caught.value}{caught.value.__context__}"
