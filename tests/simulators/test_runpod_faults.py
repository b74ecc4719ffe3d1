"""What can go wrong with answers of the simulated RunPod, as a client meets it over HTTP."""

import json
import time

import httpx
import pytest

from tests.simulators.asking import A40, graph, names, rent, status, wanted
from tests.simulators.conftest import Client
from tests.simulators.runpod import (
    FakeClock,
    Fault,
    Operation,
    Simulator,
    Trouble,
)

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
