"""What may happen to results on their way home and at home."""

import hashlib
import shutil
from collections.abc import Sequence

import pytest

from launcher.errors import (
    Exit,
    LocalDiskError,
    StorageError,
)
from launcher.loop import Loop
from launcher.machine.locking import FileLock
from launcher.model import Phase
from launcher.outcome import outcome
from launcher.ports import Stored
from launcher.results import pullback
from tests.launcher.world import OUTPUT, RUN, FakeWorld


def test_a_night_without_a_launcher_gives_nothing_up(fake: FakeWorld) -> None:
    fake.start()
    for _ in range(3):
        fake.loop().once(RUN)
        fake.clock.sleep(5)
    for _ in range(10):
        fake.pods.tick()
    fake.later(8 * 3600)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and record.checkpoints_not_home() == ()


def test_what_was_deleted_at_home_is_fetched_again_before_the_run_is_called_done(fake: FakeWorld) -> None:
    fake.start()
    fake.until_a_checkpoint()
    shutil.rmtree(fake.home.models_dir)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE
    for item in record.checkpoints():
        data = (fake.home.models_dir / item.receipt.name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == item.receipt.sha256


def test_what_was_never_listed_is_not_given_up(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.start()
    fake.until_a_checkpoint()
    lists = fake.store.list

    def refused(prefix: str) -> Sequence[Stored]:
        if "attempts" in prefix:
            raise StorageError("503")
        return lists(prefix)

    monkeypatch.setattr(fake.store, "list", refused)
    for _ in range(20):  # the job finishes, its pod is ended, hours pass
        record = fake.loop().once(RUN)
        fake.clock.sleep(5)
        if "pod-1" in fake.pods.jobs and fake.pods.jobs["pod-1"].over:
            fake.pods.container_ends("pod-1")
        fake.later(600)
    assert record.all_gone and not record.phase.closed
    monkeypatch.setattr(fake.store, "list", lists)
    record = fake.loop().drive(RUN)
    assert record.phase.closed and record.checkpoints_not_home() == ()


def test_what_can_be_fetched_no_more_is_named(fake: FakeWorld) -> None:
    fake.start()
    fake.until_a_checkpoint()
    shutil.rmtree(fake.home.models_dir)
    name = f"{OUTPUT}-000002.safetensors"
    fake.store.delete(f"runs/{RUN}/attempts/1/checkpoints/{name}")
    record = fake.loop().drive(RUN)
    assert outcome(record).exit_code is Exit.INCOMPLETE and record.checkpoints_not_home() == (name,)


def test_a_full_disk_at_the_end_is_said_and_the_run_can_be_taken_up(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.start()
    real = fake.home.finish

    def refuse(_: object) -> None:
        raise LocalDiskError("the disk is full")

    monkeypatch.setattr(fake.home, "finish", refuse)
    with pytest.raises(LocalDiskError):
        fake.loop().drive(RUN)
    assert fake.pods.existing == {}
    monkeypatch.setattr(fake.home, "finish", real)
    assert fake.loop().drive(RUN).phase is Phase.DONE


def test_an_earlier_attempts_checkpoint_does_not_replace_a_later_ones(fake: FakeWorld) -> None:
    fake.start()
    fake.until_a_checkpoint()
    fake.pods.vanish("pod-1")
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE
    newest = {item.receipt.epoch: item.receipt.attempt for item in record.checkpoints()}
    assert newest == {2: 1, 4: 2}


def test_a_view_that_fails_does_not_end_the_run(fake: FakeWorld) -> None:
    fake.start()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    loop = Loop(fake.world, fake.journal(), on_pass=broken)
    assert loop.drive(RUN).phase is Phase.DONE
    assert any("the view failed" in line for line in fake.notes.lines)


def test_what_another_process_of_this_machine_fetches_is_not_given_up(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pullback, "LOCK_SECONDS", 0.0)
    fake.home.models_dir.mkdir(parents=True)
    suspended = FileLock(fake.home.models_dir / f".{OUTPUT}-000004.safetensors.lock")
    assert suspended.take()  # Ctrl-Z in the middle of a download
    fake.start()
    patience = 3 * fake.record().spec.clocks.collect_seconds
    record = fake.loop().drive(RUN, until=lambda _: fake.clock.slept > patience)
    assert record.phase is Phase.COLLECTING and not record.missing
    suspended.release()
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and record.checkpoints_not_home() == ()
