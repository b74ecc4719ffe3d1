from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.job.bucket import Bucket
from tests.job.rig import Rig


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    made = Bucket()
    yield made
    made.close()
    assert not made.unknown, "requests that no link allows"


@pytest.fixture
def rig(bucket: Bucket, tmp_path: Path) -> Rig:
    (tmp_path / "scratch").mkdir()
    return Rig(bucket, tmp_path)
