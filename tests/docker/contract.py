"""What holds for pods that are containers, on whatever engine: run on the fake one and on a real one."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from job.contract.manifest import DEADLINE_VARIABLE, MANIFEST_URL_VARIABLE
from launcher.errors import CreateRefused, PodError
from launcher.pods.docker import DockerPods
from launcher.ports import Offer, PodSpec, PodState

PRICE = 0.25
LINK = "http://127.0.0.1:1/manifest?X-Amz-Signature=planted"


@dataclass
class Bench:
    """An engine to try the provider on."""

    pods: Callable[[], DockerPods]
    """Make a provider, as another launcher would."""
    sleeper: str
    """An image whose container prints `hello` and goes on until it is ended."""
    quitter: str
    """An image whose container ends at once."""
    make_stranger: Callable[[str], None]
    """Make a container of somebody else's, of this name."""
    names: Callable[[], list[str]]
    """Return the names of all containers of the engine."""


def spec(image: str, name: str = "") -> PodSpec:
    """Return a pod to ask for, of a name that nobody else has."""
    environment = {MANIFEST_URL_VARIABLE: LINK, DEADLINE_VARIABLE: "2100-01-01T00:00:00+00:00"}
    return PodSpec(
        name or f"retrain-test-{secrets.token_hex(4)}-1-4102444800",
        Offer("engine", PRICE),
        environment,
        image,
    )


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen in 60 s"
        time.sleep(0.05)


class Contract:
    """Needs a fixture `bench`."""

    def test_a_pod_is_found_until_it_is_ended(self, bench: Bench) -> None:
        before = datetime.now(UTC).replace(microsecond=0)
        pod = bench.pods().create(spec(bench.sleeper))
        other = bench.pods()
        assert [found.pod_id for found in other.find(pod.name)] == [pod.pod_id]
        assert pod.name in [found.name for found in other.list()]
        again = other.get(pod.pod_id)
        assert again is not None and again.state is PodState.RUNNING and again.price_per_hour == PRICE
        assert before <= again.created_at <= datetime.now(UTC)
        assert before <= other.now() <= datetime.now(UTC)
        until(lambda: "hello" in other.logs(pod.pod_id))
        assert other.terminate(pod.pod_id) is True
        assert other.get(pod.pod_id) is None and other.find(pod.name) == []
        assert pod.name not in bench.names() and other.logs(pod.pod_id) == []
        assert other.terminate(pod.pod_id) is True

    def test_a_container_that_ended_is_still_there(self, bench: Bench) -> None:
        pods = bench.pods()
        pod = pods.create(spec(bench.quitter))

        def ended() -> bool:
            found = pods.get(pod.pod_id)
            assert found is not None
            return found.state is PodState.ENDED

        until(ended)
        assert pods.terminate(pod.pod_id) is True and pods.find(pod.name) == []

    def test_a_request_that_is_made_twice_makes_one_pod(self, bench: Bench) -> None:
        pods, wanted = bench.pods(), spec(bench.sleeper)
        first = pods.create(wanted)
        assert pods.create(wanted).pod_id == first.pod_id
        assert len(pods.find(wanted.name)) == 1
        assert pods.terminate(first.pod_id)

    def test_an_image_that_is_not_there_leaves_no_container(self, bench: Bench) -> None:
        wanted = spec("retrain-test-absent:none")
        with pytest.raises(
            CreateRefused, match="retrain-test-absent:none is not on the Docker engine; `docker"
        ):
            bench.pods().create(wanted)
        assert wanted.name not in bench.names()

    def test_a_stranger_is_neither_listed_nor_ended(self, bench: Bench) -> None:
        pods, wanted = bench.pods(), spec(bench.sleeper)
        bench.make_stranger(wanted.name)
        assert wanted.name not in [pod.name for pod in pods.list()]
        assert pods.terminate(wanted.name) is True
        with pytest.raises(CreateRefused, match="none of retrain's"):
            pods.create(wanted)
        assert wanted.name in bench.names()

    @pytest.mark.parametrize(
        "name", ["../elsewhere", "postgres", "", "retrain-x_y-1-1-4102444800", "retrain-x-1"]
    )
    def test_what_is_no_pods_name_is_refused_before_anything_is_asked(self, bench: Bench, name: str) -> None:
        with pytest.raises(PodError, match="not the id"):
            bench.pods().terminate(name)
        with pytest.raises(CreateRefused, match="not the name"):
            bench.pods().create(PodSpec(name, Offer("engine", PRICE), {}, bench.sleeper))
