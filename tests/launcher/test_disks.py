"""This machine's disk fails while everything else works: nothing is given up because of that."""

from pathlib import Path

import pytest

from launcher.errors import LocalDiskError
from launcher.model import Phase
from tests.launcher.world import RUN, FakeWorld


@pytest.fixture
def fake(tmp_path: Path) -> FakeWorld:
    return FakeWorld(tmp_path)


def test_a_run_that_only_lacks_a_disk_stays_open_for_as_long_as_it_takes(fake: FakeWorld) -> None:
    fake.start()
    fake.home.models_dir.write_text("a file in the folder's place")
    waited = 0.0
    while waited < 3 * fake.record().spec.clocks.collect_seconds:
        with pytest.raises(LocalDiskError, match="every pod is gone") as caught:
            fake.loop().drive(RUN)
        assert f"retrain attach {RUN}" in caught.value.next_step
        record = fake.journal().read(RUN)
        assert (record.phase, record.missing, record.lease) == (Phase.COLLECTING, (), None)
        assert fake.pods.existing == {}
        fake.later(200)
        waited += 200
    fake.home.models_dir.unlink()
    assert fake.loop().drive(RUN).phase is Phase.DONE
    assert len(fake.journal().read(RUN).checkpoints()) == 2


def test_a_disk_that_is_back_before_the_end_costs_nothing(fake: FakeWorld) -> None:
    fake.start()
    fake.home.models_dir.write_text("a file in the folder's place")
    fake.loop().drive(RUN, until=lambda record: record.last is not None and record.last.epoch > 2)
    assert not fake.journal().read(RUN).brought
    fake.home.models_dir.unlink()
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and len(record.checkpoints()) == 2 and not record.missing
