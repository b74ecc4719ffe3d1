"""What can be read of the simulated RunPod: bills, balance, catalog, logs."""

import json
from datetime import timedelta

import httpx
import pytest

from tests.simulators.asking import A40, A40_RATE, DISK_RATE, graph, names, rent, status, wanted
from tests.simulators.runpod import Simulator


def test_billing_adds_up(cloud: Simulator, api: httpx.Client) -> None:
    first, second = rent(api)["id"], rent(api, gpu={"id": "NVIDIA L40S", "count": 2}, cloud="COMMUNITY")["id"]
    cloud.advance(5400)
    api.delete(f"/v2/pods/{first}").raise_for_status()
    cloud.advance(1800)
    api.delete(f"/v2/pods/{second}").raise_for_status()
    cloud.advance(3600)
    truth = {first: A40_RATE * 1.5, second: (2 * 0.79 + DISK_RATE) * 2}
    assert {pod_id: cloud.spent(pod_id) for pod_id in truth} == pytest.approx(truth)
    for size, records in (("hour", 4), ("day", 2), ("week", 2), ("month", 2), ("year", 2)):
        bill = api.get("/v2/billing/pods", params={"bucketSize": size}).raise_for_status().json()
        assert bill["metadata"]["recordCount"] == len(bill["records"]) == records, size
        assert bill["metadata"]["totals"]["totalAmount"] == pytest.approx(sum(truth.values()))
        assert sum(r["totalAmount"] for r in bill["records"]) == pytest.approx(cloud.spent())
    one = api.get("/v2/billing/pods", params={"podId": first, "bucketSize": "hour", "lastN": 4}).json()
    assert [r["totalAmount"] for r in one["records"]] == pytest.approx([A40_RATE, A40_RATE / 2])
    assert cloud.balance == pytest.approx(100 - cloud.spent())
    answer = graph(api, "query { myself { clientBalance currentSpendPerHr spendLimit } }").json()
    assert answer["data"]["myself"]["clientBalance"] == pytest.approx(cloud.balance)
    assert answer["data"]["myself"]["currentSpendPerHr"] == 0


def test_billing_comes_every_five_minutes_and_may_go_by_the_minute(
    cloud: Simulator, api: httpx.Client
) -> None:
    cloud.faults.conditions.billed_by_seconds = 60
    pod_id = rent(api)["id"]
    cloud.advance(130)
    api.delete(f"/v2/pods/{pod_id}").raise_for_status()
    total = "/v2/billing/pods"
    assert api.get(total).json()["metadata"]["totals"]["totalAmount"] == 0
    cloud.advance(170)
    assert api.get(total).json()["metadata"]["totals"]["gpuAmount"] == pytest.approx(0.49 * 3 / 60)
    assert cloud.balance == pytest.approx(100 - A40_RATE * 3 / 60)


def test_at_balance_zero_pods_are_swept(cloud: Simulator, api: httpx.Client) -> None:
    kept = rent(api, "kept", mounts={"network": [{"volumeId": "v", "path": "/v"}]})["id"]
    rent(api, "swept")
    cloud.set_balance(2 * A40_RATE)
    cloud.advance(3599)
    assert names(api) == ["kept", "swept"]
    cloud.advance(3600)
    assert names(api) == ["kept"]
    assert status(api, kept) == "EXITED"
    swept = cloud.pods[1]
    assert swept.ended_by == "balance"
    assert swept.ended_at is not None
    assert (swept.ended_at - swept.created_at) / timedelta(hours=1) == pytest.approx(1)
    assert cloud.balance == pytest.approx(0, abs=1e-6)
    assert api.post("/v2/pods", json=wanted()).status_code == 402


def test_catalog_shows_prices_and_stock_where_asked(cloud: Simulator, api: httpx.Client) -> None:
    cloud.catalog.set_stock(0, gpu_id=A40)
    cloud.catalog.set_stock(1, gpu_id=A40, data_center="EU-RO-1")
    plain = {gpu["id"]: gpu for gpu in api.get("/v2/catalog/gpus").json()["gpus"]}
    assert plain[A40]["price"] == {"secure": 0.49, "community": 0}
    assert "availability" not in plain[A40]
    stocked = api.get("/v2/catalog/gpus", params={"include": "AVAILABILITY", "product": "POD"}).json()
    shown = {gpu["id"]: gpu for gpu in stocked["gpus"]}[A40]
    assert shown["availability"] == "LOW"
    assert [place["id"] for place in shown["dataCenters"]] == ["EU-RO-1"]
    for half in ({"include": "AVAILABILITY"}, {"product": "POD"}):
        assert api.get("/v2/catalog/gpus", params=half).status_code == 400
    assert rent(api)["dataCenterId"] == "EU-RO-1"
    refused = api.post("/v2/pods", json=wanted())
    assert refused.status_code == 400
    assert refused.json()["detail"].startswith("There are no longer any instances available")
    api.delete(f"/v2/pods/{cloud.existing[0].pod_id}")
    assert rent(api)["dataCenterId"] == "EU-RO-1"
    europe = api.get("/v2/catalog/datacenters", params={"regions": "EUROPE", "include": "GPU_AVAILABILITY"})
    assert {place["id"] for place in europe.json()["dataCenters"]} == {"EU-SE-1", "EU-RO-1"}


def test_logs_come_as_events_and_go_on(cloud: Simulator, api: httpx.Client) -> None:
    pod_id = rent(api)["id"]
    cloud.advance(25)
    pod = cloud.pods[0]
    for number in range(5):
        pod.say("container", f"line {number}", cloud.now())
    lines: list[dict[str, str]] = []
    ids = []
    with api.stream("GET", f"/v2/pods/{pod_id}/logs", params={"source": "container", "tail": 2}) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        for text in stream.iter_lines():
            if text.startswith("id: "):
                ids.append(text.removeprefix("id: "))
            if text.startswith("data: "):
                lines.append(json.loads(text.removeprefix("data: ")))
            if len(lines) == 2:
                pod.say("container", "late", cloud.now())
            if len(lines) == 3:
                break
    assert [line["line"] for line in lines] == ["line 3", "line 4", "late"]
    api.delete(f"/v2/pods/{pod_id}").raise_for_status()
    assert api.get(f"/v2/pods/{pod_id}/logs").status_code == 404


def test_logs_resume_where_they_were_left(cloud: Simulator, api: httpx.Client) -> None:
    pod_id = rent(api)["id"]
    cloud.advance(25)
    pod = cloud.pods[0]
    for number in range(5):
        pod.say("container", f"line {number}", cloud.now())
    inside = httpx.Client(transport=cloud.transport(), base_url="http://x", headers=_head(cloud))

    def shown(headers: dict[str, str] | None = None, **query: str) -> list[str]:
        found = []
        with (
            pytest.raises(httpx.ReadTimeout),
            inside.stream("GET", f"/v2/pods/{pod_id}/logs", params=query, headers=headers) as stream,
        ):
            for text in stream.iter_lines():
                if text.startswith("data: "):
                    found.append(json.loads(text.removeprefix("data: "))["line"])
        return found

    assert "start container registry/image:1: begin" in shown(source="system")
    assert shown(since="2026-01-01T00:00:25Z", source="container")[0] == "line 0"
    last = f"2026-01-01T00:00:25Z/{pod.logs[-2].number:012d}"
    assert shown({"Last-Event-ID": last}, tail="0") == ["line 4"]
    assert shown(tail="0") == []
    assert inside.get(f"/v2/pods/{pod_id}/logs", params={"tail": 5001}).status_code == 422


def _head(night: Simulator) -> dict[str, str]:
    return {"Authorization": f"Bearer {night.account_key}", "User-Agent": "tests/1"}
