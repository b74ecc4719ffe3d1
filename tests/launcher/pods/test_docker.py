"""Containers as pods, on a fake engine that fails as real ones do: what is certain and what is not."""

import json
from collections.abc import Iterator

import docker
import pytest

from job.contract.manifest import POD_ID_VARIABLE
from launcher.errors import CreateRefused, PodError, UsageError
from launcher.pods.docker import DockerPods
from launcher.pods.docker_engine import Engine
from launcher.ports import PodState
from tests.docker.contract import LINK, PRICE, Bench, Contract, spec
from tests.docker.fake_engine import FakeContainer, FakeEngine, Fault, serve

TIMEOUT_SECONDS = 1


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with serve() as fake:
        yield fake


def provider(
    engine: FakeEngine,
    *,
    store_is_local: bool = False,
    gpus: bool | None = None,
    network: str | None = None,
    timeout_seconds: int = 30,
) -> DockerPods:
    def connect() -> docker.APIClient:
        return docker.APIClient(base_url=engine.address, version="auto", timeout=timeout_seconds)

    return DockerPods(
        Engine(connect),
        store_is_local=store_is_local,
        gpus=gpus,
        network=network,
        price_per_hour=PRICE,
    )


class TestFakeEngine(Contract):
    @pytest.fixture
    def bench(self, engine: FakeEngine) -> Bench:
        def make_stranger(name: str) -> None:
            engine.containers["f" * 64] = FakeContainer(name, {"Image": "sleeper", "Labels": None}, "running")

        return Bench(
            pods=lambda: provider(engine),
            sleeper="sleeper",
            quitter="quitter",
            make_stranger=make_stranger,
            names=lambda: [item.name for item in engine.containers.values()],
        )


def test_a_container_gets_what_it_needs_and_no_more(engine: FakeEngine) -> None:
    pod = provider(engine).create(spec("sleeper"))
    made = engine.named(pod.name)
    assert made is not None
    assert sorted(made.config["Env"]) == sorted(
        [
            f"RETRAIN_MANIFEST_URL={LINK}",
            "RETRAIN_DEADLINE=2100-01-01T00:00:00+00:00",
            f"{POD_ID_VARIABLE}={pod.name}",
        ]
    )
    assert made.config["Labels"] == {
        "retrain.pod": pod.name,
        "retrain.namespace": "test",
        "retrain.deadline": "2100-01-01T00:00:00+00:00",
    }
    host = made.config["HostConfig"]
    assert host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges"]
    assert host["RestartPolicy"] == {"Name": "no"} and host["Init"] is True
    assert not {"Binds", "Privileged", "Devices", "DeviceRequests", "PortBindings"} & set(host)


@pytest.mark.parametrize(
    ("store_is_local", "network", "expected"),
    [(True, None, "host"), (False, None, None), (False, "lab", "lab"), (True, "lab", "lab")],
)
def test_a_store_on_loopback_takes_the_machines_own_network(
    engine: FakeEngine, store_is_local: bool, network: str | None, expected: str | None
) -> None:
    pods = provider(engine, store_is_local=store_is_local, network=network)
    made = engine.named(pods.create(spec("sleeper")).name)
    assert made is not None and made.config["HostConfig"].get("NetworkMode") in (
        expected,
        expected or "default",
    )


@pytest.mark.parametrize(
    ("gpus", "runtimes", "given"),
    [
        (None, ("runc",), False),
        (None, ("runc", "nvidia"), True),
        (True, ("nvidia",), True),
        (False, ("nvidia",), False),
    ],
)
def test_gpus_are_taken_where_the_engine_has_them(
    engine: FakeEngine, gpus: bool | None, runtimes: tuple[str, ...], given: bool
) -> None:
    engine.runtimes = runtimes
    pods = provider(engine, gpus=gpus)
    [offer] = pods.offers()
    assert offer.name.endswith("all GPUs" if given else "no GPU") and offer.price_per_hour == PRICE
    made = engine.named(pods.create(spec("sleeper")).name)
    assert made is not None
    requests = made.config["HostConfig"].get("DeviceRequests") or []
    assert [(each["Count"], each["Capabilities"]) for each in requests] == (
        [(-1, [["gpu"]])] if given else []
    )


def test_gpus_that_the_engine_does_not_have_are_refused_and_nothing_is_left(engine: FakeEngine) -> None:
    with pytest.raises(CreateRefused, match="NVIDIA Container Toolkit"):
        provider(engine, gpus=True).create(spec("sleeper"))
    assert engine.containers == {}


@pytest.mark.parametrize("operation", ["create", "start"])
@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("write /var/lib/docker: no space left on device", "disk is full"),
        ('exec: "docker-init": executable file not found in $PATH', "lacks its docker-init"),
        ("something else", r"\(HTTP 500\): something else"),
    ],
)
def test_a_refusal_is_certain_once_no_container_is_left(
    engine: FakeEngine, operation: str, done: bool, message: str, told: str
) -> None:
    engine.fail(operation, Fault(500, message, done=done))
    with pytest.raises(CreateRefused, match=told) as caught:
        provider(engine).create(spec("sleeper"))
    assert engine.containers == {} and "planted" not in str(caught.value)


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("operation", ["create", "start", "list"])
@pytest.mark.parametrize("delay_seconds", [0.0, 2.5 * TIMEOUT_SECONDS])
def test_without_an_answer_nothing_is_certain_and_the_name_finds_what_there_is(
    engine: FakeEngine, operation: str, done: bool, delay_seconds: float
) -> None:
    pods, wanted = provider(engine), spec("sleeper")
    hasty = provider(engine, timeout_seconds=TIMEOUT_SECONDS) if delay_seconds else pods
    engine.fail(operation, Fault(None, done=done, delay_seconds=delay_seconds))
    with pytest.raises(PodError) as caught:
        hasty.create(wanted)
    assert not isinstance(caught.value, CreateRefused) and "planted" not in str(caught.value)
    made = operation != "create" or done
    found = pods.find(wanted.name)
    assert len(found) == made
    started = operation == "list" or (operation == "start" and done)
    assert [pod.state for pod in found] == [PodState.RUNNING if started else PodState.STARTING] * made
    # Whoever asks again gets the same container, at work.
    assert pods.create(wanted).state is PodState.RUNNING and len(pods.find(wanted.name)) == 1


def test_a_refused_start_whose_container_cannot_be_removed_is_no_refusal(engine: FakeEngine) -> None:
    engine.fail("start", Fault(500, "no"))
    engine.fail("remove", Fault(409, "removal of container is already in progress"))
    with pytest.raises(PodError, match="still there") as caught:
        provider(engine).create(spec("sleeper"))
    assert not isinstance(caught.value, CreateRefused) and len(engine.containers) == 1


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("list", Fault(200, body=b"<html>sorry</html>")),
        *((each, Fault(500, "no")) for each in ("list", "stop", "remove")),
        *((each, Fault(None)) for each in ("list", "stop", "remove")),
    ],
)
def test_an_error_is_never_an_end(engine: FakeEngine, operation: str, fault: Fault) -> None:
    pods = provider(engine)
    pod = pods.create(spec("sleeper"))
    engine.fail(operation, fault)
    with pytest.raises(PodError):
        pods.terminate(pod.pod_id)
    assert pods.terminate(pod.pod_id) is True and engine.containers == {}


def test_an_end_whose_answer_is_lost_is_an_end(engine: FakeEngine) -> None:
    pods = provider(engine)
    pod = pods.create(spec("sleeper"))
    engine.fail("remove", Fault(None, done=True))
    with pytest.raises(PodError):
        pods.terminate(pod.pod_id)
    assert pods.terminate(pod.pod_id) is True


def test_a_container_that_is_being_removed_is_not_gone_yet(engine: FakeEngine) -> None:
    pods = provider(engine)
    pod = pods.create(spec("sleeper"))
    engine.fail("remove", Fault(409, "removal of container is already in progress"))
    assert pods.terminate(pod.pod_id) is False
    assert pods.terminate(pod.pod_id) is True


def test_an_end_that_somebody_else_asked_for_meanwhile_is_an_end(engine: FakeEngine) -> None:
    pods = provider(engine)
    pod = pods.create(spec("sleeper"))
    engine.fail("stop", Fault(404, "No such container"))
    engine.fail("remove", Fault(404, "No such container", done=True))
    assert pods.terminate(pod.pod_id) is True


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b'{"message": "no"}',
        b"[{}]",
        b"[1]",
        b'[{"Id": "a", "State": "running", "Created": "now", "Labels": {}}]',
        b"[",
    ],
)
def test_a_list_that_is_none_is_no_empty_list(engine: FakeEngine, body: bytes) -> None:
    pods = provider(engine)
    engine.fail("list", Fault(200, body=body))
    with pytest.raises(PodError):
        pods.list()


def test_a_list_that_was_not_filtered_makes_no_stranger_ours(engine: FakeEngine) -> None:
    pods = provider(engine)
    theirs = {
        "Id": "b",
        "State": "running",
        "Created": 1,
        "Labels": {"retrain.pod": "retrain-other-1-1-4102444800"},
    }
    nobodys = {**theirs, "Labels": {}}
    for _ in range(2):
        engine.fail("list", Fault(200, body=json.dumps([theirs, nobodys]).encode()))
    assert [pod.name for pod in pods.list()] == ["retrain-other-1-1-4102444800"]
    assert pods.find("retrain-test-1-1-4102444800") == []


def test_absence_is_believed_of_the_engine_that_is_known_alone(engine: FakeEngine) -> None:
    pods = provider(engine)
    pod = pods.create(spec("sleeper"))
    assert pods.place == "docker engine-1"
    containers, engine.containers, engine.engine_id = engine.containers, {}, "engine-2"
    for look in (lambda: pods.get(pod.pod_id), lambda: pods.terminate(pod.pod_id), pods.list):
        with pytest.raises(PodError, match="another Docker engine"):
            look()
    engine.containers, engine.engine_id = containers, "engine-1"
    assert pods.terminate(pod.pod_id) is True


def test_who_cannot_reach_the_engine_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, engine: FakeEngine
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(PodError, match="no Docker engine answers") as caught:
        DockerPods(Engine(), store_is_local=True).list()
    assert "start Docker" in caught.value.next_step

    def forbidden() -> docker.APIClient:
        try:
            raise PermissionError(13, "Permission denied")
        except PermissionError as error:
            raise docker.errors.DockerException("Error while fetching server API version") from error

    with pytest.raises(PodError, match="may not talk") as caught:
        DockerPods(Engine(forbidden), store_is_local=True).list()
    assert "group docker" in caught.value.next_step


def test_an_engine_that_was_away_is_asked_again(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.address)
    pods = DockerPods(Engine(), store_is_local=True)
    engine.fail("version", Fault(None))
    with pytest.raises(PodError):
        pods.list()
    assert pods.list() == []


def test_an_image_is_pulled_before_a_run(engine: FakeEngine) -> None:
    said: list[str] = []
    engine.pullable["registry/image"] = [
        {"status": "Pulling from image", "id": "latest"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 5, "total": 10}},
        {"status": "Download complete", "id": "a"},
    ]
    progress = Engine(lambda: docker.APIClient(engine.address)).pull("registry/image")
    assert list(progress) == [(0, 0), (5, 10), (10, 10)]
    pods = provider(engine)
    engine.images.discard("registry/image")
    pods.prepare("registry/image", said.append)
    pods.prepare("registry/image", said.append)
    assert said == ["pulling registry/image"] and engine.asked.count("pull") == 2


def test_an_image_that_cannot_be_pulled_is_named(engine: FakeEngine) -> None:
    engine.pullable["broken"] = [{"status": "Pulling"}, {"error": "unexpected EOF"}]
    for image, why in (("nowhere", "pull access denied"), ("broken", "unexpected EOF")):
        with pytest.raises(
            PodError, match=f"{image} is not on the Docker engine and cannot be pulled: {why}"
        ):
            provider(engine).prepare(image, lambda _: None)


def test_what_cannot_work_is_refused_before_a_run(engine: FakeEngine) -> None:
    engine.system = "windows"
    with pytest.raises(UsageError, match="Windows"):
        provider(engine).prepare("sleeper", lambda _: None)


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("http+docker://localhost", True),
        ("http+docker://localnpipe", True),
        ("http://127.0.0.1:2375", True),
        ("https://engine.example:2376", False),
        ("http+docker://ssh", False),
    ],
)
def test_the_way_to_an_engine_tells_whether_it_is_here(
    monkeypatch: pytest.MonkeyPatch, engine: FakeEngine, address: str, here: bool
) -> None:
    client = docker.APIClient(base_url=engine.address, version="auto")
    monkeypatch.setattr(client, "base_url", address)
    assert Engine(lambda: client).is_on_this_machine() is here


def test_a_store_on_loopback_and_an_engine_elsewhere_do_not_meet(
    monkeypatch: pytest.MonkeyPatch, engine: FakeEngine
) -> None:
    monkeypatch.setattr(Engine, "is_on_this_machine", lambda _: False)
    with pytest.raises(UsageError, match="loopback"):
        provider(engine, store_is_local=True).prepare("sleeper", lambda _: None)
    provider(engine, store_is_local=False).prepare("sleeper", lambda _: None)
