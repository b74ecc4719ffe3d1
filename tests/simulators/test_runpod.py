"""The simulated RunPod without faults: lives of pods, requests, keys, checks."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.simulators.asking import A40, A40_RATE, end_by_graph, graph, names, rent, status, wanted
from tests.simulators.conftest import Client
from tests.simulators.runpod import FakeClock, KeyRights, Scripted, Simulator, Status, Timing
from tests.simulators.runpod.checks import CONTRACT, Checks
from tests.simulators.runpod.pod import BadTransition, Container
from tests.simulators.runpod.shapes import PodShape


def test_a_pod_boots_runs_and_is_gone(cloud: Simulator, api: httpx.Client) -> None:
    made = rent(api, env={"A": "1"})
    pod_id = made["id"]
    assert (made["status"], made["runtime"], made["cost"]) == ("PROVISIONING", None, 0.49)
    cloud.advance(5)
    assert status(api, pod_id) == "STARTING"
    cloud.advance(20)
    found = api.get(f"/v2/pods/{pod_id}").json()
    assert found["status"] == "RUNNING"
    assert found["runtime"]["uptime"] == 0
    assert found["env"] == {"A": "1"}
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 204
    assert api.get(f"/v2/pods/{pod_id}").status_code == 404
    assert names(api) == []
    assert cloud.existing == []


def test_nothing_revives_a_pod_that_is_gone(cloud: Simulator, api: httpx.Client) -> None:
    pod_id = rent(api)["id"]
    cloud.advance(2)
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 204
    cloud.advance(3600)
    for action in ("start", "stop", "restart", "terminate"):
        assert api.post(f"/v2/pods/{pod_id}/action", json={"action": action}).status_code == 404
    assert api.patch(f"/v2/pods/{pod_id}", json={"name": "again"}).status_code == 404
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 404
    pod = cloud.pods[0]
    for wish in Status:
        with pytest.raises(BadTransition):
            pod.move(wish)
    with pytest.raises(BadTransition):
        cloud.host_restarts(pod_id)
    assert pod.status is Status.TERMINATED
    assert cloud.spent() == pytest.approx(A40_RATE * 2 / 3600)


def test_actions_are_those_of_the_status(cloud: Simulator, api: httpx.Client) -> None:
    pod_id = rent(api)["id"]

    def act(action: str) -> int:
        return api.post(f"/v2/pods/{pod_id}/action", json={"action": action}).status_code

    assert act("restart") == act("start") == 409
    cloud.advance(25)
    assert act("start") == 409
    assert act("restart") == 200
    cloud.advance(1)
    assert act("stop") == 200
    assert api.get(f"/v2/pods/{pod_id}").json()["cost"] == 0
    assert act("stop") == 409
    assert act("start") == 200
    cloud.advance(20)
    assert status(api, pod_id) == "RUNNING"
    assert act("terminate") == 204
    assert cloud.pods[0].life == 3


def test_the_main_process_is_started_again_and_again() -> None:
    script = Scripted(exits_after_seconds=9)
    with Simulator(FakeClock(), workload=lambda pod: script, timing=Timing(restart=1)) as night:
        rent(httpx.Client(transport=night.transport(), base_url="http://x", headers=_head(night)))
        night.advance(25 + 100)
        pod = night.existing[0]
        assert pod.status is Status.RUNNING
        assert [container.life for container in script.lives] == list(range(1, 12))
        assert night.spent() == pytest.approx(A40_RATE * 125 / 3600)


def test_a_container_sees_what_is_injected() -> None:
    script = Scripted()
    with Simulator(FakeClock(), workload=lambda pod: script) as night:
        api = httpx.Client(transport=night.transport(), base_url="http://x", headers=_head(night))
        made = rent(api, env={"MINE": "1", "RUNPOD_API_KEY": "planted"}, dataCenterIds=["US-KS-2"])
        night.advance(25)
        seen = script.lives[0].environment
        assert seen["MINE"] == "1"
        assert seen["RUNPOD_API_KEY"] == night.pods[0].key != "planted"
        assert (seen["RUNPOD_POD_ID"], seen["RUNPOD_DC_ID"]) == (made["id"], "US-KS-2")
        assert seen["RUNPOD_GPU_COUNT"] == "1"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"terminateAfter": "2026-01-02T00:00:00Z"}, 422),
        ({"gpu": {"id": A40, "count": 1, "spot": True}}, 422),
        ({"gpu": {"id": A40, "count": 0}}, 422),
        ({"gpu": None}, 422),
        ({"env": {"A": 1}}, 422),
        ({"name": ""}, 422),
        ({"image": None}, 422),
        ({"disk": "40"}, 422),
        ({"gpu": {"id": A40}}, 400),
        ({"gpu": {"id": "NVIDIA nothing", "count": 1}}, 400),
        ({"cpu": {"id": "cpu3c", "vcpuCount": 2}}, 400),
        ({"cloud": "COMMUNITY"}, 400),
        ({"gpu": {"id": A40, "count": 1, "minCudaVersion": "13.0"}}, 400),
        ({"dataCenterIds": ["XX-1"]}, 400),
        ({"env": {f"V{number}": "" for number in range(51)}}, 400),
        ({"templateId": "t"}, 404),
    ],
)
def test_what_does_not_fit_is_refused(api: httpx.Client, change: dict[str, Any], code: int) -> None:
    answer = api.post("/v2/pods", json={**wanted(), **change})
    assert answer.status_code == code
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert ("errors" in answer.json()) == (code == 422)
    assert names(api) == []


def test_other_paths_and_methods(api: httpx.Client) -> None:
    assert api.get("/v1/pods").status_code == 410
    assert api.get("/v2/nothing").status_code == 404
    assert api.put("/v2/pods").status_code == 405
    assert api.post("/v2/pods", content=b"{").status_code == 400
    assert api.get("/v2/pods", params={"name": "x"}).status_code == 422


def test_a_cpu_pod_is_cheap(api: httpx.Client) -> None:
    body = {"name": "canary", "image": "i", "cpu": {"id": "cpu3c", "vcpuCount": 2}, "disk": 5}
    made = api.post("/v2/pods", json=body).raise_for_status().json()
    assert made["cost"] < 0.05
    assert "gpu" not in made


def test_pages(cloud: Simulator, api: httpx.Client) -> None:
    wished = [rent(api, f"pod-{number}")["name"] for number in range(7)]
    whole = api.get("/v2/pods").json()
    assert "pagination" not in whole
    cloud.faults.conditions.page_size = 3
    found, cursor = [], None
    while True:
        page = api.get("/v2/pods", params={"cursor": cursor} if cursor else {}).json()
        found += [pod["name"] for pod in page["pods"]]
        if len(found) == 3:  # a page goes on although its last pod is gone by now
            api.delete(f"/v2/pods/{page['pods'][-1]['id']}").raise_for_status()
        cursor = page["pagination"]["nextCursor"]
        if not page["pagination"]["hasNextPage"]:
            break
    assert found == wished
    assert cursor is None
    assert len(names(api, limit=2)) == 2
    assert api.get("/v2/pods", params={"cursor": "?"}).status_code == 400


def test_a_thousand_pods_list_quickly(cloud: Simulator, api: httpx.Client) -> None:
    cloud.catalog.set_stock(2000)
    for number in range(1000):
        cloud.add_stranger(f"pod-{number}")
    cloud.advance(60)
    names(api)  # every pod's document is checked once
    cloud.advance(60)
    began = time.perf_counter()
    assert len(names(api)) == 1000
    assert time.perf_counter() - began < 2


def test_a_script_works_and_ends_its_own_pod() -> None:
    def step(container: Container) -> int | None:
        container.say(f"epoch {len(said)}")
        said.append(container.now())
        if len(said) == 3:
            own = {**_head(night), "Authorization": f"Bearer {container.environment['RUNPOD_API_KEY']}"}
            path = f"{night.serve()}/v2/pods/{container.environment['RUNPOD_POD_ID']}"
            assert httpx.delete(path, headers=own, trust_env=False).status_code == 204
        return None

    said: list[datetime] = []
    with Simulator(FakeClock(), workload=lambda pod: Scripted(step)) as night:
        rent(httpx.Client(transport=night.transport(), base_url="http://x", headers=_head(night)))
        night.advance(25)
        for _ in range(5):
            night.advance(60)
        assert len(said) == 3
        assert night.existing == []
        assert [line.text for line in night.pods[0].logs if line.source == "container"][-1] == "epoch 2"
        assert night.spent() == pytest.approx(A40_RATE * 145 / 3600)


def test_a_restart_asked_for_twice_starts_one_container(cloud: Simulator, api: httpx.Client) -> None:
    pod_id = rent(api)["id"]
    cloud.advance(25)
    for _ in range(2):
        api.post(f"/v2/pods/{pod_id}/action", json={"action": "restart"}).raise_for_status()
    cloud.advance(5)
    assert cloud.pods[0].life == 2


def test_strangers_are_watched(cloud: Simulator, api: httpx.Client) -> None:
    strange = cloud.add_stranger("somebody-elses")
    rent(api, "ours")
    assert names(api) == ["somebody-elses", "ours"]
    api.get(f"/v2/pods/{strange.pod_id}").raise_for_status()
    assert cloud.touched_strangers == []
    assert [pod.name for pod in cloud.existing] == ["ours"]
    end_by_graph(api, strange.pod_id)
    assert [record.pod_id for record in cloud.touched_strangers] == [strange.pod_id]


def test_a_pods_own_key_ends_with_its_pod(cloud: Simulator, api: httpx.Client, client: Client) -> None:
    pod_id = rent(api)["id"]
    other = rent(api, "other")["id"]
    own = client(cloud.pods[0].key)
    assert names(own) == ["night"]
    assert own.delete(f"/v2/pods/{other}").status_code == 403
    assert own.post("/v2/pods", json=wanted()).status_code == 403
    assert "errors" in graph(own, "query { myself { clientBalance } }").json()
    assert own.delete(f"/v2/pods/{pod_id}").status_code == 204
    assert own.get("/v2/pods").status_code == 401
    assert cloud.pods[0].ended_by == "itself"
    assert cloud.faults.conditions.pod_key_rights is KeyRights.BOTH


def test_a_wrong_answer_is_noticed() -> None:
    checks = Checks()
    checks.answer(PodShape, "Pod", {"id": "x"})
    with pytest.raises(AssertionError, match="our own model PodShape"):
        checks.conclude()


@pytest.mark.skipif(not CONTRACT.is_file(), reason="the OpenAPI document is not here")
def test_the_document_judges_too(tmp_path: Path) -> None:
    checks = Checks()
    checks.answer(PodShape, "Pod", {"id": "x"})
    assert any("the document's Pod" in defect for defect in checks.defects)


def test_without_the_document_the_models_judge_alone(tmp_path: Path) -> None:
    with Simulator(FakeClock(), document=tmp_path / "absent.json") as night:
        api = httpx.Client(transport=night.transport(), base_url="http://x", headers=_head(night))
        assert api.post("/v2/pods", json={**wanted(), "bogus": 1}).status_code == 422
        assert api.post("/v2/pods", json={**wanted(), "gpu": None}).status_code == 422
        rent(api)


def _head(night: Simulator) -> dict[str, str]:
    return {"Authorization": f"Bearer {night.account_key}", "User-Agent": "tests/1"}
