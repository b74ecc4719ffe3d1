"""A server of its own for each test that disturbs one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.storage.embedded import EmbeddedServer
from tests.launcher.storage.servers import clean


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "store")
    yield server
    clean(server)
