"""Whether an image can be pulled, asked of a registry on loopback."""

from collections.abc import Iterator

import pytest

from launcher.checkup import Finding
from launcher.errors import PodError, UsageError
from launcher.pods.registry import DOCKER_HUB, Reference, check_image
from tests.simulators.registry import Registry, serving


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as made:
        yield made


def look(registry: Registry, name: str, *, credential: str | None = None) -> dict[str, Finding]:
    found = check_image(f"{registry.host}/{name}", credential=credential)
    return {finding.check: finding for finding in found}


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("index", [False, True])
def test_an_image_is_found_with_digest_platform_and_size(
    registry: Registry, *, tokens: bool, index: bool
) -> None:
    registry.tokens = tokens
    digest = registry.push("team/retrain", "v1", "amd64", index=index)
    found = look(registry, "team/retrain:v1")
    assert found["image"].ok is True
    assert digest in found["image"].detail
    assert "linux/amd64" in found["image"].detail
    assert "3.0 GB" in found["image"].detail
    pinned = found["image, pinned"]
    assert pinned.ok is None
    assert pinned.fix.endswith(f"{registry.host}/team/retrain@{digest}")


def test_a_pinned_image_needs_no_note(registry: Registry) -> None:
    digest = registry.push("team/retrain", "v1", "arm64", "amd64")
    assert look(registry, f"team/retrain@{digest}").keys() == {"image"}
    assert look(registry, f"team/retrain:v1@{digest}")["image"].ok


@pytest.mark.parametrize("index", [False, True])
def test_an_image_for_another_machine_is_named(registry: Registry, *, index: bool) -> None:
    registry.push("team/retrain", "v1", "arm64", index=index)
    found = look(registry, "team/retrain:v1")["image"]
    assert found.ok is False
    assert "amd64" in found.fix


def test_what_is_not_there_is_told(registry: Registry) -> None:
    registry.tokens = True
    registry.push("team/retrain", "v1", "amd64")
    found = look(registry, "team/retrain:v2")["image"]
    assert found.ok is False
    assert "no team/retrain" in found.detail


def test_a_private_image_wants_a_credential(registry: Registry) -> None:
    registry.private = True
    registry.push("team/retrain", "v1", "amd64")
    found = look(registry, "team/retrain:v1")["image"]
    assert found.ok is False
    assert "runpod.registry" in found.fix
    with_one = look(registry, "team/retrain:v1", credential="cred-1")["image"]
    assert with_one.ok is None
    assert "cred-1" in with_one.detail


@pytest.mark.parametrize("status", [500, 200, 418])
def test_what_is_no_registry_is_no_answer(registry: Registry, status: int) -> None:
    registry.status = status
    with pytest.raises(PodError):
        look(registry, "team/retrain:v1")


def test_nobody_there_is_told() -> None:
    with pytest.raises(PodError, match="cannot be asked"):
        list(check_image("127.0.0.1:9/team/retrain:v1", credential=None))


@pytest.mark.parametrize(
    "image", ["", "UPPER/case", "a b", "x@sha256:12", "host.io/", "x:", "x@", "-x", "a/../b"]
)
def test_what_is_no_name_is_refused(image: str) -> None:
    with pytest.raises(UsageError):
        list(check_image(image, credential=None))


@pytest.mark.parametrize(
    ("image", "host", "path", "tag"),
    [
        ("python", DOCKER_HUB, "library/python", "latest"),
        ("docker.io/library/python:3.12", DOCKER_HUB, "library/python", "3.12"),
        ("team/retrain:v1", DOCKER_HUB, "team/retrain", "v1"),
        ("ghcr.io/team/retrain", "ghcr.io", "team/retrain", "latest"),
        ("localhost/retrain", "localhost", "retrain", "latest"),
        ("host.io:5000/team/retrain:v1", "host.io:5000", "team/retrain", "v1"),
        ("ghcr.io/team/retrain@sha256:" + "a" * 64, "ghcr.io", "team/retrain", ""),
    ],
)
def test_names_are_read_as_docker_reads_them(image: str, host: str, path: str, tag: str) -> None:
    found = Reference.parse(image)
    assert (found.host, found.path, found.tag) == (host, path, tag)
