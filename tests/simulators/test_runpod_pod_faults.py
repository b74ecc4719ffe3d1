"""What can go wrong with a pod of the simulated RunPod: boot, host, price, end and key."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.simulators.asking import A40_RATE, DISK_RATE, end_by_graph, graph, names, rent, status
from tests.simulators.conftest import Client
from tests.simulators.runpod import (
    KeyRights,
    Misfortune,
    Operation,
    Simulator,
    Status,
    Trouble,
)

HOUR = timedelta(hours=1)
HALF_SECOND = 0.5


def test_a_pod_boots_into_error(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.next_pods.append(Misfortune(boots_into_error=True))
    pod_id = rent(api)["id"]
    healthy = rent(api)["id"]
    cloud.advance(3600)
    found = api.get(f"/v2/pods/{pod_id}").json()
    assert (found["status"], found["actions"]) == ("ERROR", ["start", "terminate"])
    assert status(api, healthy) == "RUNNING"
    assert cloud.spent(pod_id) == pytest.approx(A40_RATE)


def test_a_pod_is_never_ready(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.next_pods.append(Misfortune(never_ready=True))
    cloud.faults.next_pods.append(Misfortune(stays_provisioning=True))
    first, second = rent(api)["id"], rent(api)["id"]
    cloud.advance(36000)
    found = api.get(f"/v2/pods/{first}").json()
    assert (found["status"], found["runtime"]) == ("RUNNING", None)
    assert status(api, second) == "PROVISIONING"
    assert cloud.spent() == pytest.approx(20 * A40_RATE)
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
    assert cloud.spent() == pytest.approx(A40_RATE * 74 / 3600)


def test_the_host_restarts_once(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.next_pods.append(Misfortune(host_restart_after=100))
    pod_id = rent(api)["id"]
    cloud.advance(25 + 100)
    assert status(api, pod_id) == "STARTING"
    cloud.advance(30)
    assert status(api, pod_id) == "RUNNING"
    cloud.advance(7200)
    assert cloud.pods[0].life == 2
    assert cloud.spent() == pytest.approx(A40_RATE * 7355 / 3600)
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
    assert cloud.spent() == pytest.approx(A40_RATE * seconds / 3600)


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
    assert cloud.spent() == pytest.approx(A40_RATE * 35 / 3600)


def test_the_end_takes_a_while(cloud: Simulator, api: httpx.Client) -> None:
    cloud.faults.conditions.end_lag_seconds = 60
    pod_id = rent(api)["id"]
    assert api.delete(f"/v2/pods/{pod_id}").status_code == 204
    cloud.advance(59)
    assert names(api) == ["night"]
    cloud.advance(1)
    assert names(api) == []
    assert cloud.spent() == pytest.approx(A40_RATE * 60 / 3600)


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
    assert cloud.spent() == pytest.approx(A40_RATE)


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
    assert cloud.spent() == pytest.approx(1.47 + DISK_RATE)


def test_disk_beside_the_price(cloud: Simulator, api: httpx.Client) -> None:
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
