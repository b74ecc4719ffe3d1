"""What is read of RunPod's answers about a pod, the catalog and the bill."""

import json
from datetime import UTC, datetime

import httpx
import jsonschema
import pytest

from launcher.pods.runpod_api import TRIES, Termination
from launcher.pods.runpod_errors import Kind, RunpodError
from launcher.pods.runpod_log import log_events
from launcher.pods.runpod_models import (
    Cloud,
    GpuCatalog,
    LogSource,
    PodAction,
    PodBilling,
    PodPage,
    PodStatus,
    RunpodPod,
    Stock,
)
from tests.launcher.pods import runpod_contract
from tests.launcher.pods.runpod_script import (
    GPU,
    LINK,
    POD,
    REQUEST,
    connected,
    ok,
    problem,
)

BILL = {"totalAmount": 0.5, "gpuAmount": 0.4, "cpuAmount": 0, "diskAmount": 0.1}
HOUR = {"startTime": "2026-06-01T12:00:00Z", "endTime": "2026-06-01T13:00:00Z"}


def test_a_pod_is_read() -> None:
    running = POD | {
        "status": "RUNNING",
        "actions": ["stop", "hibernate"],
        "dataCenterId": "EU-SE-1",
        "runtime": {"uptime": 5, "news": 1},
        "startedAt": "2026-06-01T14:02:00+02:00",
        "invented": {"since": "yesterday"},
    }
    api, script, _ = connected(httpx.Response(200, json=running))
    pod = api.pod("7h9k2m4n6p")
    assert pod is not None and script.requests[0].url.path == "/v2/pods/7h9k2m4n6p"
    assert pod.container_up and pod.runtime is not None and pod.runtime.uptime == 5
    assert pod.actions == (PodAction.STOP, PodAction.UNKNOWN)
    assert pod.started_at == datetime(2026, 6, 1, 12, 2, tzinfo=UTC)
    assert pod.created_at == datetime(2026, 6, 1, 12, tzinfo=UTC)
    assert (pod.cloud, pod.data_center_id, pod.locked) == (Cloud.SECURE, "EU-SE-1", False)
    assert pod.gpu is not None and (pod.gpu.id, pod.gpu.count) == ("NVIDIA A40", 1)
    assert LINK not in repr(pod)


@pytest.mark.parametrize("runtime", [None, {}, {"gpus": []}])
def test_running_without_a_runtime_is_not_up(runtime: object) -> None:
    pod = RunpodPod.model_validate(POD | {"status": "RUNNING", "runtime": runtime})
    assert not pod.container_up


def test_words_that_are_not_known_are_unknown() -> None:
    pod = RunpodPod.model_validate(POD | {"status": "MIGRATING", "cloud": "MOON"})
    assert (pod.status, pod.cloud) == (PodStatus.UNKNOWN, Cloud.UNKNOWN)


def test_only_runpods_own_404_means_not_known() -> None:
    api, script, _ = connected(problem(404), problem(404))
    assert api.pod("gone") is None
    assert api.terminate("gone") is Termination.NOT_KNOWN
    for strange in (
        httpx.Response(404),
        httpx.Response(404, text="<html>nothing here</html>"),
        httpx.Response(404, json={"message": "no route"}),
        httpx.Response(404, json={"title": "No", "detail": "pod", "status": 500}),
    ):
        api, script, _ = connected(*[strange] * TRIES, strange)
        with pytest.raises(RunpodError) as caught:
            api.pod("gone")
        assert caught.value.kind is Kind.UNREADABLE
        with pytest.raises(RunpodError) as caught:
            api.terminate("gone")
        assert caught.value.kind is Kind.UNREADABLE and not script.steps


def test_terminate_is_asked_once_and_acknowledged_by_204_alone() -> None:
    api, script, _ = connected(httpx.Response(204, extensions={"agreed": True}), httpx.Response(200, json={}))
    assert api.terminate("7h9k2m4n6p") is Termination.ACKNOWLEDGED
    request = script.requests[0]
    assert (request.method, request.url.path) == ("DELETE", "/v2/pods/7h9k2m4n6p")
    with pytest.raises(RunpodError, match="only 204"):
        api.terminate("7h9k2m4n6p")


@pytest.mark.parametrize("pod_id", ["", ".", ".."])
def test_an_id_that_is_none_is_not_sent(pod_id: str) -> None:
    api, _, _ = connected()
    for ask in (api.pod, api.terminate, api.logs):
        with pytest.raises(RunpodError, match="not the id of a pod"):
            ask(pod_id)


def test_an_id_stays_in_its_place() -> None:
    api, script, _ = connected(problem(404))
    assert api.pod("a/../b?x#y") is None
    assert script.requests[0].url.raw_path == b"/v2/pods/a%2F..%2Fb%3Fx%23y"


def test_an_answer_about_another_pod_is_an_error() -> None:
    api, _, _ = connected(*[ok(POD)] * TRIES, ok(POD | {"name": "retrain-b-1"}, 201))
    with pytest.raises(RunpodError, match="another pod"):
        api.pod("other")
    with pytest.raises(RunpodError, match=r"another pod.*may have been made"):
        api.create(REQUEST)


def test_the_catalog_with_prices_and_stock() -> None:
    strange = GPU | {
        "id": "NVIDIA B1",
        "community": True,
        "price": {"secure": None, "community": 0.2},
        "availability": "PLENTY",
    }
    api, script, _ = connected(ok({"gpus": [GPU]}), httpx.Response(200, json={"gpus": [strange]}))
    (gpu,) = api.gpus(cloud=Cloud.SECURE, min_cuda_version="12.8")
    assert dict(script.requests[0].url.params) == {
        "include": "AVAILABILITY",
        "product": "POD",
        "cloud": "SECURE",
        "count": "1",
        "minCudaVersion": "12.8",
    }
    assert gpu.price_per_hour(Cloud.SECURE) == 0.44 and gpu.price_per_hour(Cloud.SECURE, count=2) == 0.88
    assert gpu.price_per_hour(Cloud.COMMUNITY) is None
    assert (gpu.availability, gpu.data_centers[0].id, gpu.memory) == (Stock.LOW, "EU-SE-1", 48)
    assert gpu.cuda_versions[0].available
    (gpu,) = api.gpus(cloud=Cloud.COMMUNITY)
    assert gpu.price_per_hour(Cloud.SECURE) is None and gpu.price_per_hour(Cloud.COMMUNITY) == 0.2
    assert gpu.availability is Stock.UNKNOWN


def test_a_price_of_zero_is_unknown() -> None:
    api, _, _ = connected(ok({"gpus": [GPU | {"community": True}]}))
    assert api.gpus(cloud=Cloud.COMMUNITY)[0].price_per_hour(Cloud.COMMUNITY) is None


def test_the_bill_of_a_pod() -> None:
    query = HOUR | {"bucketSize": "hour", "podId": "p"}
    metadata = {"query": query, "recordCount": 1, "uniquePodCount": 1, "totals": BILL}
    api, script, _ = connected(ok({"records": [BILL | HOUR | {"podId": "p"}], "metadata": metadata}))
    start = datetime.fromisoformat("2026-06-01T14:00:00+02:00")
    (row,) = api.billing("p", start, datetime(2026, 6, 1, 13, tzinfo=UTC))
    assert (row.pod_id, row.total_amount, row.gpu_amount, row.disk_amount) == ("p", 0.5, 0.4, 0.1)
    assert row.start_time == start and row.end_time == datetime(2026, 6, 1, 13, tzinfo=UTC)
    assert dict(script.requests[0].url.params) == query


@pytest.mark.skipif(not runpod_contract.PRESENT, reason="RunPod's OpenAPI document is not here")
def test_the_documents_own_examples_are_read() -> None:
    paths = runpod_contract.document()["paths"]
    for path, method, status, model in (
        ("/v2/pods", "get", "200", PodPage),
        ("/v2/pods", "post", "201", RunpodPod),
        ("/v2/pods/{id}", "get", "200", RunpodPod),
        ("/v2/catalog/gpus", "get", "200", GpuCatalog),
        ("/v2/billing/pods", "get", "200", PodBilling),
    ):
        found = runpod_contract.examples(paths[path][method], status)
        assert found
        for _, value in found:
            model.model_validate_json(json.dumps(value))
    for _, value in runpod_contract.examples(paths["/v2/pods/{id}/logs"]["get"], "200"):
        (event,) = log_events(value.encode())
        assert event.line == "Model loaded." and event.source is LogSource.CONTAINER and event.ts


@pytest.mark.skipif(not runpod_contract.PRESENT, reason="RunPod's OpenAPI document is not here")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v2/pods", {"name": "a", "image": "i", "terminateAfter": "tonight"}),
        ("POST", "/v2/pods", {"name": "a"}),
        ("GET", "/v2/pods?cursor=1", None),
        ("GET", "/v2/catalog/gpus?product=BIKE", None),
        ("GET", "/v1/pods", None),
    ],
)
def test_what_the_document_does_not_have_is_noticed(method: str, path: str, body: object) -> None:
    request = httpx.Request(method, f"https://api.runpod.io{path}", json=body)
    with pytest.raises((AssertionError, jsonschema.ValidationError)):
        runpod_contract.check_request(request)


@pytest.mark.skipif(not runpod_contract.PRESENT, reason="RunPod's OpenAPI document is not here")
@pytest.mark.parametrize("change", [{"status": "MOVED"}, {"cost": None}, {"createdAt": 7}])
def test_an_answer_that_the_document_does_not_have_is_noticed(change: dict[str, object]) -> None:
    request = httpx.Request("GET", "https://api.runpod.io/v2/pods/p")
    runpod_contract.check_answer(request, ok(POD))
    with pytest.raises(jsonschema.ValidationError):
        runpod_contract.check_answer(request, ok(POD | change))


def test_the_time_is_runpods_own() -> None:
    dated = ok({"pods": []})
    dated.headers["Date"] = "Mon, 01 Jun 2026 12:00:00 GMT"
    api, script, clock = connected(dated)
    assert api.now() == datetime(2026, 6, 1, 12, tzinfo=UTC)
    clock.sleep(90)
    assert api.now() == datetime(2026, 6, 1, 12, 1, 30, tzinfo=UTC)  # from the answer that there was
    assert len(script.requests) == 1


@pytest.mark.parametrize("date", ["", "today"])
def test_without_a_date_nobody_guesses_the_time(date: str) -> None:
    undated = ok({"pods": []})
    undated.headers["Date"] = date
    api, _, _ = connected(undated)
    with pytest.raises(RunpodError, match="no Date"):
        api.now()
