"""Fixtures that tests of several packages share."""

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from launcher.storage.embedded import EmbeddedServer
from launcher.storage.s3 import S3Store

# Here and not in tests/crash: with pytest-xdist the process that prints collects no tests.
pytest_plugins = ["tests.crash.closing_line"]


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A real S3 server on loopback, one for the whole session (about a second to start, two to stop)."""
    server = EmbeddedServer(tmp_path_factory.mktemp("store"))
    server.connect()
    yield server
    server.stop()


@pytest.fixture
def embedded_store(embedded_server: EmbeddedServer) -> S3Store:
    """A store on the real server, empty: every test has a prefix of its own."""
    return S3Store(replace(embedded_server.connect(), prefix=f"test-{secrets.token_hex(6)}/"))
