"""Fixtures: a simulator with a fake clock, served over HTTP, and clients with the account's key."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.simulators.runpod import FakeClock, Simulator

AGENT = "retrain-tests/1"
Client = Callable[..., httpx.Client]


@pytest.fixture
def cloud() -> Iterator[Simulator]:
    with Simulator(FakeClock()) as simulator:
        yield simulator


@pytest.fixture
def client(cloud: Simulator) -> Iterator[Client]:
    """Make clients: of the account by default, else of whoever has the key."""
    made = []

    def make(key: str | None = None, *, timeout: float = 5.0) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or cloud.account_key}", "User-Agent": AGENT}
        made.append(httpx.Client(base_url=cloud.serve(), headers=headers, timeout=timeout, trust_env=False))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def api(client: Client) -> httpx.Client:
    return client()
