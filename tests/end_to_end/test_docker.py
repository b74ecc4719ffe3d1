"""Containers of a real Docker engine: the provider's contract, and whole runs of the real job in them.

Skipped, with the reason, where there is no engine and none can be started; see tests/docker/engine.py.
"""

import io
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import docker
import pytest
from docker.errors import NotFound

from launcher.errors import CreateRefused, Exit
from launcher.pods.docker import POD_LABEL, DockerPods
from launcher.pods.docker_engine import Engine
from tests.docker.contract import PRICE, Bench, Contract, spec
from tests.docker.engine import docker_engine
from tests.docker.image import build_image, interpreter
from tests.end_to_end.conftest import Workspace, until
from tests.end_to_end.test_runs import assert_complete, assert_no_secret

pytestmark = pytest.mark.slow

SECONDS = 300
"""Of patience with an engine on a busy machine."""
LONG_AGO, LATER = datetime(2002, 2, 2, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
QUITTER = "print('hello')"
SLEEPER = "import time; print('hello', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER


@dataclass
class Site:
    """An engine with the images that the tests need."""

    client: docker.DockerClient
    address: str
    job: str

    def variant(self, name: str, program: str) -> str:
        """Make an image that runs another program than the job and return its name."""
        entrypoint = json.dumps([interpreter(), "-c", program])
        recipe = f"FROM {self.job}\nENTRYPOINT {entrypoint}\n"
        self.client.images.build(fileobj=io.BytesIO(recipe.encode()), tag=f"retrain-test-{name}", rm=True)
        return f"retrain-test-{name}"

    def pods(self, *, gpus: bool | None = False) -> DockerPods:
        """Make a provider, as each launcher does."""

        def connect() -> docker.APIClient:
            return docker.APIClient(base_url=self.address, version="auto", timeout=SECONDS)

        return DockerPods(Engine(connect), store_is_local=True, gpus=gpus, price_per_hour=PRICE)

    def left(self, part: str) -> list[str]:
        """Return the names of retrain's containers that have a part in their name, ended ones included."""
        found = self.client.containers.list(all=True, filters={"label": POD_LABEL}, ignore_removed=True)
        return [str(item.name) for item in found if part in str(item.name)]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with docker_engine() as address:
        client = docker.DockerClient(base_url=address, timeout=SECONDS)
        yield Site(client, address, build_image(address))
        client.close()


class TestRealEngine(Contract):
    @pytest.fixture
    def bench(self, site: Site) -> Iterator[Bench]:
        before = {item.id for item in site.client.containers.list(all=True, ignore_removed=True)}
        sleeper = site.variant("sleeper", SLEEPER)

        def make_stranger(name: str) -> None:
            site.client.containers.create(sleeper, name=name, network_mode="none")

        def names() -> list[str]:
            return [str(each.name) for each in site.client.containers.list(all=True, ignore_removed=True)]

        yield Bench(
            pods=site.pods,
            sleeper=sleeper,
            quitter=site.variant("quitter", QUITTER),
            make_stranger=make_stranger,
            names=names,
        )
        for item in site.client.containers.list(all=True, ignore_removed=True):
            if item.id not in before and str(item.name).startswith("retrain-test-"):
                item.remove(force=True)

    @pytest.mark.parametrize("disturb", ["nothing", "pause", "kill"])
    def test_what_does_not_listen_is_ended_all_the_same(self, bench: Bench, site: Site, disturb: str) -> None:
        pods = bench.pods()
        pod = pods.create(spec(site.variant("stubborn", STUBBORN)))
        until(lambda: pods.logs(pod.pod_id) == ["hello"], "its first word")
        container = site.client.containers.get(pod.name)
        if disturb != "nothing":
            getattr(container, disturb)()
        assert pods.terminate(pod.pod_id) is True
        with pytest.raises(NotFound):
            container.reload()

    def test_gpus_that_are_not_there_are_refused(self, bench: Bench, site: Site) -> None:
        if "nvidia" in site.client.info()["Runtimes"]:
            pytest.skip("this engine has GPUs to give")
        wanted = spec(bench.sleeper)
        with pytest.raises(CreateRefused, match="NVIDIA Container Toolkit"):
            site.pods(gpus=True).create(wanted)
        assert wanted.name not in bench.names()


@pytest.fixture
def namespace(site: Site) -> Iterator[str]:
    """A namespace of the test's own; what is left of it is removed."""
    name = f"test{secrets.token_hex(4)}"
    yield name
    for left in site.left(name):
        site.client.containers.get(left).remove(force=True)


@pytest.fixture
def flags(site: Site, namespace: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flags of a command that uses the engine."""
    monkeypatch.setenv("DOCKER_HOST", site.address)
    settings = (
        "run.provider=docker",
        "run.preset=tinypunks",
        f"run.namespace={namespace}",
        "docker.gpus=none",
        f"pod.image={site.job}",
    )
    return [part for setting in settings for part in ("--set", setting)]


def test_a_run_whose_container_is_killed_comes_home_whole(
    site: Site, workspace: Workspace, flags: list[str], namespace: str
) -> None:
    launcher = workspace.start("run", "--json", *flags)
    until(lambda: list(workspace.folder.glob("models/*.safetensors")), "a checkpoint", seconds=SECONDS)
    [name] = site.left(namespace)
    site.client.containers.get(name).kill()
    code, out, err = workspace.finish(launcher)
    assert code == Exit.DONE, err
    result = json.loads(out)
    assert_complete(workspace, result)
    assert [attempt["ended"] for attempt in result["attempts"]] == ["pod_gone", "finished"]
    assert result["attempts"][1]["resumed_epoch"] >= 1
    assert site.left(namespace) == []
    assert_no_secret(workspace)


def test_what_is_left_over_is_found_and_reaped(
    site: Site, workspace: Workspace, flags: list[str], namespace: str
) -> None:
    ended, alive, later = (
        f"retrain-{namespace}-lost-{attempt}-{int(deadline.timestamp())}"
        for attempt, deadline in ((1, LONG_AGO), (2, LONG_AGO), (3, LATER))
    )
    pods, sleeper = site.pods(), site.variant("sleeper", SLEEPER)
    pods.create(spec(site.variant("quitter", QUITTER), ended))
    for name in (alive, later):
        pods.create(spec(sleeper, name))
    code, out, err = workspace.run("reap", "--json", *flags)
    assert code == Exit.LEAKED, err
    assert {row["name"] for row in json.loads(out)["pods"] if row["due"]} == {ended, alive}
    code, _, err = workspace.run("reap", "--yes", *flags)
    assert code == Exit.DONE, err
    assert site.left(namespace) == [later]
