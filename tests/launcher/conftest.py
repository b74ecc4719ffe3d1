"""A run in a world of fakes, for every test that drives one."""

from pathlib import Path

import pytest

from tests.launcher.world import FakeWorld


@pytest.fixture
def fake(tmp_path: Path) -> FakeWorld:
    return FakeWorld(tmp_path)
