from collections.abc import Iterator
from pathlib import Path

import pytest

from job import outbox, patience
from tests.job.bucket import Bucket
from tests.job.rig import Rig


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    made = Bucket()
    yield made
    made.close()
    assert not made.unknown, "requests that no link allows"


@pytest.fixture
def rig(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    for module in (patience, outbox):
        monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.05)
        monkeypatch.setattr(module, "LONGEST_WAIT_SECONDS", 0.5)
    (tmp_path / "scratch").mkdir()
    return Rig(bucket, tmp_path)
