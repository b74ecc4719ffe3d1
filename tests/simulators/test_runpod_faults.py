"""Every fault knob of the simulated RunPod, as a client meets it over HTTP."""

import json
import time
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.simulators.asking import A40, end_by_graph, graph, names, rent, status, wanted
from tests.simulators.conftest import Client
from tests.simulators.runpod import (
    FakeClock,
    Fault,
    KeyRights,
    Misfortune,
    Operation,
    Simulator,
    Status,
    Trouble,
)

HOUR = timedelta(hours=1)
HALF_SECOND = 0.5


def test_500_after_the_pod_was_created(cloud: Simulator, api: httpx.Client) -> None:
    cloud.trouble(Trouble.SERVER_ERROR, Operation.CREATE, after_effect=True)
    assert api.post("/v2/pods", json=wanted("ghost")).status_code == 500
    assert names(api) == ["ghost"]
    cloud.trouble(Trouble.SERVER_ERROR, Operation.CREATE)
    assert api.post("/v2/pods", json=wanted("nothing")).status_code == 500
    assert names(api) == ["ghost"]
    assert [record.status for record in cloud.records] == [500, 200, 500, 200]


def test_time_out_after_the_pod_was_created(cloud: Simulator, client: Client) -> None:
    impatient = client(timeout=HALF_SECOND)
    cloud.trouble(Trouble.TIMEOUT, Operation.CREATE, after_effect=True)
    with pytest.raises(httpx.ReadTimeout):
        impatient.post("/v2/pods", json=wanted("ghost"))
    assert names(impatient) == ["ghost"]
    cloud.trouble(Trouble.TIMEOUT, Operation.CREATE)
    with pytest.raises(httpx.ReadTimeout):
        impatient.post("/v2/pods", json=wanted("nothing"))
    assert names(impatient) == ["ghost"]
    assert cloud.records[-2].status == 0


def test_the_list_lags(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.conditions.list_lag_seconds = 30
    pod_id = rent(api)["id"]
    assert names(api) == []
    assert status(api, pod_id) == "PROVISIONING"
    cloud.advance(30)
    assert names(api) == ["night"]


def test_the_list_lingers(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.conditions.list_linger_seconds = 10
    pod_id = rent(api)["id"]
    api.delete(f"/v2/pods/{pod_id}").raise_for_status()
    assert [pod["status"] for pod in api.get("/v2/pods").json()["pods"]] == ["TERMINATED"]
    assert api.get(f"/v2/pods/{pod_id}").status_code == 404
    cloud.advance(10)
    assert names(api) == []


def test_404_right_after_create(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.conditions.get_lag_seconds = 20
    pod_id = rent(api)["id"]
    assert api.get(f"/v2/pods/{pod_id}").status_code == 404
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 404
    assert len(cloud.existing) == 1
    cloud.advance(20)
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 204
    assert cloud.existing == []


def test_429_says_when_to_come_back(cloud: Simulator, api: httpx.Client) -> None:
    cloud.trouble(Trouble.RATE_LIMITED).retry_after_seconds = 7
    answer = api.get("/v2/pods")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert api.get("/v2/pods").status_code == 200


def test_a_quota_is_a_real_one(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.conditions.quota_per_minute = 2
    codes = [api.get("/v2/pods").status_code for _ in range(4)]
    assert codes == [200, 200, 429, 429]
    cloud.advance(float(api.get("/v2/pods").headers["Retry-After"]))
    assert api.get("/v2/pods").status_code == 200


@pytest.mark.parametrize("closed", [(A40, "EU-SE-1"), ("", "EU-SE-1"), (A40, ""), ("", "")])
def test_no_capacity_whatever_the_catalog_says(
    cloud: Simulator, api: httpx.Client, closed: tuple[str, str]
) -> None:
    cloud.faults.conditions.no_capacity.add(closed)
    answer = api.post("/v2/pods", json=wanted(dataCenterIds=["EU-SE-1"]))
    assert answer.status_code == 400
    assert answer.json()["detail"] == (
        "There are no longer any instances available with the requested specifications. "
        "Please refresh and try again."
    )
    assert api.post("/v2/pods", json=wanted()).status_code == (400 if closed[1] == "" else 201)
    other = api.post("/v2/pods", json=wanted(gpu={"id": "NVIDIA L4", "count": 1}))
    assert other.status_code == (400 if closed == ("", "") else 201)


def test_402_without_an_hours_balance(cloud: Simulator, api: httpx.Client) -> None:
    cloud.set_balance(0.48)
    assert api.post("/v2/pods", json=wanted()).status_code == 402
    cloud.set_balance(0.50)
    assert api.post("/v2/pods", json=wanted()).status_code == 201


def test_401_and_403(cloud: Simulator, api: httpx.Client, client: Client) -> None:
    assert client("rpa_wrong").get("/v2/pods").status_code == 401
    assert client("rpa_wrong").post("/graphql", json={"query": "{ myself { id } }"}).status_code == 401
    cloud.service.account_keys.clear()
    assert api.get("/v2/pods").status_code == 401
    cloud.service.account_keys.add(cloud.account_key)
    cloud.trouble(Trouble.FORBIDDEN, Operation.LIST)
    answer = api.get("/v2/pods")
    assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")
    cloud.faults.conditions.forbidden_gpus.add(A40)
    assert api.post("/v2/pods", json=wanted()).status_code == 403


def test_html_502(cloud: Simulator, api: httpx.Client) -> None:
    cloud.trouble(Trouble.BAD_GATEWAY, times=2)
    for answer in (api.get("/v2/pods"), graph(api, "{ myself { clientBalance } }")):
        assert (answer.status_code, answer.headers["Content-Type"]) == (502, "text/html")
        assert answer.text.startswith("<html>")


def test_cloudflare_1010(cloud: Simulator, api: httpx.Client) -> None:
    cloud.trouble(Trouble.CLOUDFLARE)
    answer = api.get("/v2/pods")
    assert (answer.status_code, answer.text) == (403, "error code: 1010")
    assert answer.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("agent", ["", "Python-urllib/3.11", "python-urllib/3.9"])
def test_cloudflare_wants_a_user_agent(api: httpx.Client, agent: str) -> None:
    answer = api.get("/v2/pods", headers={"User-Agent": agent})
    assert (answer.status_code, answer.text) == (403, "error code: 1010")
    assert api.post("/graphql", headers={"User-Agent": agent}, json={}).text == "error code: 1010"


def test_truncated_json(cloud: Simulator, api: httpx.Client) -> None:
    rent(api)
    cloud.trouble(Trouble.TRUNCATED, Operation.LIST)
    answer = api.get("/v2/pods")
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    cloud.trouble(Trouble.TRUNCATED, Operation.CREATE)
    assert api.post("/v2/pods", json=wanted("ghost")).status_code == 201
    assert names(api) == ["night", "ghost"]


def test_an_empty_or_malformed_list(cloud: Simulator, api: httpx.Client) -> None:
    rent(api)
    cloud.trouble(Trouble.EMPTY, Operation.LIST)
    assert api.get("/v2/pods").json() == {"pods": []}
    cloud.trouble(Trouble.MALFORMED, Operation.LIST)
    assert api.get("/v2/pods").json() == {"pods": None}
    cloud.faults.answers.append(Fault(Trouble.MALFORMED, frozenset({Operation.LIST}), body=b"[]"))
    assert api.get("/v2/pods").json() == []
    assert names(api) == ["night"]


def test_a_connection_that_ends(cloud: Simulator, api: httpx.Client) -> None:
    cloud.trouble(Trouble.DISCONNECT, Operation.CREATE, after_effect=True)
    with pytest.raises(httpx.RemoteProtocolError):
        api.post("/v2/pods", json=wanted("ghost"))
    assert names(api) == ["ghost"]


def test_some_requests_get_through_first(cloud: Simulator, api: httpx.Client) -> None:
    cloud.trouble(Trouble.SERVER_ERROR, Operation.LIST, skip=1, times=2)
    assert [api.get("/v2/pods").status_code for _ in range(4)] == [200, 500, 500, 200]


def test_a_pod_boots_into_error(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.next_pods.append(Misfortune(boots_into_error=True))
    pod_id = rent(api)["id"]
    healthy = rent(api)["id"]
    cloud.advance(3600)
    found = api.get(f"/v2/pods/{pod_id}").json()
    assert (found["status"], found["actions"]) == ("ERROR", ["start", "terminate"])
    assert status(api, healthy) == "RUNNING"
    assert cloud.spent(pod_id) == pytest.approx(0.49)


def test_a_pod_is_never_ready(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.next_pods.append(Misfortune(never_ready=True))
    cloud.faults.next_pods.append(Misfortune(stays_provisioning=True))
    first, second = rent(api)["id"], rent(api)["id"]
    cloud.advance(36000)
    found = api.get(f"/v2/pods/{first}").json()
    assert (found["status"], found["runtime"]) == ("RUNNING", None)
    assert status(api, second) == "PROVISIONING"
    assert cloud.spent() == pytest.approx(9.8)
    api.delete(f"/v2/pods/{first}").raise_for_status()
    api.delete(f"/v2/pods/{second}").raise_for_status()
    assert cloud.existing == []


def test_a_container_restarts_for_ever(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.every_pod = Misfortune(restart_loop_seconds=4)
    pod_id = rent(api)["id"]
    cloud.advance(25 + 49)
    assert status(api, pod_id) == "RUNNING"
    assert cloud.pods[0].life == 10
    assert sum("exited with code 1" in line.text for line in cloud.pods[0].logs) == 10
    assert cloud.spent() == pytest.approx(0.49 * 74 / 3600)


def test_the_host_restarts_once(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.next_pods.append(Misfortune(host_restart_after=100))
    pod_id = rent(api)["id"]
    cloud.advance(25 + 100)
    assert status(api, pod_id) == "STARTING"
    cloud.advance(30)
    assert status(api, pod_id) == "RUNNING"
    cloud.advance(7200)
    assert cloud.pods[0].life == 2
    assert cloud.spent() == pytest.approx(0.49 * 7355 / 3600)
    cloud.host_restarts(pod_id)
    cloud.advance(30)
    assert cloud.pods[0].life == 3


@pytest.mark.parametrize("leaves", [Status.TERMINATED, Status.EXITED, Status.ERROR])
def test_the_host_kills_a_pod(cloud: Simulator, api: httpx.Client, leaves: Status) -> None:
    cloud.faults.next_pods.append(Misfortune(host_kill_after=100, host_kill_leaves=leaves))
    pod_id = rent(api)["id"]
    cloud.advance(25 + 99)
    assert status(api, pod_id) == "RUNNING"
    cloud.advance(3601)
    answer = api.get(f"/v2/pods/{pod_id}")
    if leaves is Status.TERMINATED:
        assert answer.status_code == 404
        assert cloud.pods[0].ended_by == "host"
    else:
        assert answer.json()["status"] == leaves
    seconds = 125 if leaves is not Status.ERROR else 3725
    assert cloud.spent() == pytest.approx(0.49 * seconds / 3600)


def test_a_pod_ignores_sigterm(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.next_pods.append(Misfortune(ignores_sigterm=True))
    pod_id = rent(api)["id"]
    cloud.advance(25)
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 204
    assert names(api) == ["night"]
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 204
    cloud.advance(9)
    assert len(cloud.existing) == 1
    cloud.advance(1)
    assert cloud.existing == []
    assert cloud.spent() == pytest.approx(0.49 * 35 / 3600)


def test_the_end_takes_a_while(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.conditions.end_lag_seconds = 60
    pod_id = rent(api)["id"]
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 204
    cloud.advance(59)
    assert names(api) == ["night"]
    cloud.advance(1)
    assert names(api) == []
    assert cloud.spent() == pytest.approx(0.49 * 60 / 3600)


@pytest.mark.parametrize("refuses", [True, False])
def test_a_locked_pod(cloud: Simulator, api: httpx.Client, refuses: bool) -> None:
    cloud.faults.conditions.locked_refuses_terminate = refuses
    cloud.faults.next_pods.append(Misfortune(locked=True))
    made = rent(api)
    assert made["locked"]
    cloud.advance(25)
    path = f"/v2/pods/{made['id']}"
    assert api.post(f"{path}/action", json={"action": "stop"}).status_code == 409
    if refuses:
        assert api.delete(path).status_code == 409
        assert api.post(f"{path}/action", json={"action": "terminate"}).status_code == 409
        assert end_by_graph(api, made["id"]).json()["errors"][0]["message"] == "pod is locked"
        assert api.patch(path, json={"locked": False}).json()["locked"] is False
    assert api.delete(path).status_code == 204
    assert cloud.existing == []


def test_terminate_succeeds_and_loses_its_answer(cloud: Simulator, client: Client) -> None:
    impatient = client(timeout=HALF_SECOND)
    pod_id = rent(impatient)["id"]
    cloud.trouble(Trouble.TIMEOUT, Operation.DELETE, after_effect=True)
    with pytest.raises(httpx.ReadTimeout):
        impatient.delete(f"/v2/pods/{pod_id}")
    assert cloud.existing == []
    assert impatient.delete(f"/v2/pods/{pod_id}").status_code == 404


def test_terminate_is_refused_for_an_hour(cloud: Simulator, api: httpx.Client, client: Client) -> None:
    pod_id = rent(api)["id"]
    own = client(cloud.pods[0].key)
    cloud.refuse_terminations(cloud.now() + HOUR)
    for who in (api, own):
        assert who.delete(f"/v2/pods/{pod_id}").status_code == 500
        assert who.post(f"/v2/pods/{pod_id}/action", json={"action": "terminate"}).status_code == 500
        assert end_by_graph(who, pod_id).status_code == 500
    cloud.advance(3599)
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 500
    cloud.advance(1)
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 204
    assert cloud.spent() == pytest.approx(0.49)


@pytest.mark.parametrize("rights", list(KeyRights))
def test_where_a_pods_own_key_is_accepted(
    cloud: Simulator, api: httpx.Client, client: Client, rights: KeyRights
) -> None:
    cloud.faults.conditions.pod_key_rights = rights
    ways: dict[str, Any] = {
        "delete": lambda own, pod_id: own.delete(f"/v2/pods/{pod_id}").status_code == 204,
        "action": lambda own, pod_id: (
            own.post(f"/v2/pods/{pod_id}/action", json={"action": "terminate"}).status_code == 204
        ),
        "graphql": lambda own, pod_id: end_by_graph(own, pod_id).json() == {"data": {"podTerminate": None}},
    }
    worked = set()
    for name, end in ways.items():
        pod_id = rent(api, name)["id"]
        if end(client(cloud.world.pods[pod_id].key), pod_id):
            worked.add(name)
    by_v2, by_graph = {"delete", "action"}, {"graphql"}
    assert (
        worked
        == {
            KeyRights.BOTH: by_v2 | by_graph,
            KeyRights.V2: by_v2,
            KeyRights.GRAPHQL: by_graph,
            KeyRights.NOWHERE: set(),
        }[rights]
    )
    assert {pod.name for pod in cloud.existing} == {*ways} - worked


def test_graphql_variables_and_unknown_fields(cloud: Simulator, api: httpx.Client) -> None:
    pod_id = rent(api)["id"]
    query = "mutation($id: String!) { podTerminate(input: {podId: $id}) }"
    assert "errors" not in graph(api, query, id=pod_id).json()
    assert cloud.existing == []
    assert "errors" in graph(api, query, id=pod_id).json()
    assert "errors" in graph(api, "{ myself { shoeSize } }").json()
    assert graph(api, "{ gpuTypes { id } }").status_code == 400


def test_a_price_above_the_catalog(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.next_pods.append(Misfortune(price_factor=3))
    assert rent(api)["cost"] == pytest.approx(1.47)
    cloud.advance(3600)
    assert cloud.spent() == pytest.approx(1.47)


def test_disk_beside_the_price(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.conditions.disk_usd_per_gb_month = 0.1
    assert rent(api)["cost"] == 0.49
    cloud.advance(7300 * 3600 / 100)
    totals = api.get("/v2/billing/pods").json()["metadata"]["totals"]
    assert totals["diskAmount"] == pytest.approx(0.1 * 40 / 10)
    assert totals["totalAmount"] == pytest.approx(0.49 * 73 + 0.4)


def test_a_fault_for_pods_alone(cloud: Simulator, api: httpx.Client, client: Client) -> None:
    pod_id = rent(api)["id"]
    cloud.trouble(Trouble.FORBIDDEN, times=None, by_pods=True)
    assert client(cloud.pods[0].key).delete(f"/v2/pods/{pod_id}").status_code == 403
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 204


def test_a_hanging_request_holds_nobody_up(cloud: Simulator, client: Client) -> None:
    cloud.trouble(Trouble.TIMEOUT, Operation.LIST)
    with pytest.raises(httpx.ReadTimeout):
        client(timeout=0.1).get("/v2/pods")
    began = time.perf_counter()
    client().get("/v2/pods").raise_for_status()
    assert time.perf_counter() - began < 2


def test_inside_a_client_a_time_out_takes_no_time() -> None:
    with Simulator(FakeClock()) as night:
        head = {"Authorization": f"Bearer {night.account_key}", "User-Agent": "tests/1"}
        api = httpx.Client(transport=night.transport(), base_url="http://x", headers=head)
        night.trouble(Trouble.TIMEOUT, Operation.CREATE, after_effect=True)
        with pytest.raises(httpx.ReadTimeout):
            api.post("/v2/pods", json=wanted("ghost"))
        night.trouble(Trouble.DISCONNECT, Operation.LIST)
        with pytest.raises(httpx.RemoteProtocolError):
            names(api)
        assert names(api) == ["ghost"]
