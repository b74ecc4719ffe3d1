"""Artefacts come home side by side, and everything about each stays as if it came alone."""

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from job.contract import keys
from job.contract.records import ArtefactKind, Receipt
from launcher.errors import IntegrityError, LeaseHeld, LocalDiskError, ObjectMissing, StorageError
from launcher.loop import Loop
from launcher.model import Phase, RunRecord
from launcher.results import fetching
from launcher.results.fetching import Fetched, fetch_all
from launcher.results.room import FREE_BYTES_MIN
from tests.fakes.store import FakeStore
from tests.launcher.world import RUN, FakeWorld

MANY = 12


class _MeetingStore(FakeStore):
    """Lets no download go on before `meet` of them have begun."""

    meet = 4

    def __init__(self) -> None:
        super().__init__(chunk_bytes=50)
        self._met = threading.Barrier(self.meet)
        self.most = self._now = 0

    def download(self, key: str, path: Path, *, offset: int = 0) -> Iterator[int]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self._met.wait(timeout=10)
        yield from super().download(key, path, offset=offset)
        with self._lock:
            self._now -= 1


def receipt(store: FakeStore, epoch: int, **changes: Any) -> Receipt:
    data = f"checkpoint of epoch {epoch} {changes}".encode() * 10
    fields: dict[str, Any] = {
        "run_id": RUN, "attempt": 1, "life": 1, "at": datetime(2026, 1, 1, tzinfo=UTC), "step": epoch,
        "kind": ArtefactKind.CHECKPOINT, "key": f"checkpoints/{epoch}", "name": f"{epoch}", "epoch": epoch,
        "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
    }  # fmt: skip
    made = Receipt(**fields | changes)
    store.put(keys.attempt_prefix(RUN, made.attempt) + made.key, data)
    return made


@pytest.fixture
def fake(tmp_path: Path) -> FakeWorld:
    return FakeWorld(tmp_path, epochs=2 * MANY)


def fetch(
    fake: FakeWorld, store: FakeStore, receipts: list[Receipt], *, at_once: int = 4, heard: Any = None
) -> list[tuple[Fetched, ...]]:
    listener = heard or (lambda _name, _count: None)
    return list(fetch_all(receipts, fake.record(), store, fake.home, at_once=at_once, on_bytes=listener))


def test_small_ones_come_side_by_side(fake: FakeWorld) -> None:
    store = _MeetingStore()
    receipts = [receipt(store, epoch) for epoch in range(1, MANY + 1)]
    batches = fetch(fake, store, receipts)
    assert store.most == store.meet
    found = {item.receipt.epoch: item.path for batch in batches for item in batch}
    assert sorted(found) == list(range(1, MANY + 1))
    for item in receipts:
        path = found[item.epoch]
        assert path is not None and hashlib.sha256(path.read_bytes()).hexdigest() == item.sha256


def test_one_that_is_damaged_or_gone_holds_up_no_other(fake: FakeWorld) -> None:
    receipts = [receipt(fake.store, epoch) for epoch in range(1, 7)]
    fake.store.corrupt(keys.attempt_prefix(RUN, 1) + "checkpoints/2")
    fake.store.delete(keys.attempt_prefix(RUN, 1) + "checkpoints/5")
    found = {item.receipt.epoch: item for batch in fetch(fake, fake.store, receipts) for item in batch}
    assert {epoch for epoch, item in found.items() if item.path is not None} == {1, 3, 4, 6}
    assert isinstance(found[2].error, IntegrityError)
    assert isinstance(found[5].error, ObjectMissing)


def test_a_store_that_fails_is_said_of_each(fake: FakeWorld) -> None:
    store = FakeStore()
    receipts = [receipt(store, epoch) for epoch in (1, 2, 3)]
    store.fail(3)
    found = [item for batch in fetch(fake, store, receipts) for item in batch]
    assert [type(item.error) for item in found] == [StorageError] * 3


def test_large_ones_come_two_at_a_time(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SMALL_BYTES", 10)
    monkeypatch.setattr(_MeetingStore, "meet", fetching.LARGE_AT_ONCE)
    store = _MeetingStore()
    batches = fetch(fake, store, [receipt(store, epoch) for epoch in range(1, 7)])
    assert store.most == fetching.LARGE_AT_ONCE
    assert sum(item.path is not None for batch in batches for item in batch) == 6


def test_several_versions_of_one_come_in_order_after_the_others(fake: FakeWorld) -> None:
    older, newer = receipt(fake.store, 2), receipt(fake.store, 2, attempt=2)
    others = [receipt(fake.store, epoch) for epoch in (3, 4)]
    batches = fetch(fake, fake.store, [older, others[0], newer, others[1]])
    assert [batch[0].receipt for batch in batches[-2:]] == [older, newer]
    path = batches[-1][0].path
    assert path is not None and hashlib.sha256(path.read_bytes()).hexdigest() == newer.sha256


def test_one_at_a_time_keeps_the_order_and_starts_no_pool(fake: FakeWorld) -> None:
    receipts = [receipt(fake.store, epoch) for epoch in (3, 1, 2)]
    batches = fetch(fake, fake.store, receipts, at_once=1)
    assert [[item.receipt for item in batch] for batch in batches] == [[item] for item in receipts]


def test_the_caller_is_kept_awake_in_its_own_thread_and_may_end_it(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "BEAT_SECONDS", 0.02)
    store, release = FakeStore(), threading.Event()
    receipts = [receipt(store, epoch) for epoch in range(1, MANY + 1)]
    real = store.download

    def slow(key: str, path: Path, *, offset: int = 0) -> Iterator[int]:
        assert release.wait(timeout=10)
        yield from real(key, path, offset=offset)

    monkeypatch.setattr(store, "download", slow)
    heard: list[str] = []

    def listen(_name: str, _count: int) -> None:
        heard.append(threading.current_thread().name)
        if len(heard) == 5:
            release.set()
            raise LeaseHeld("another launcher took over")

    with pytest.raises(LeaseHeld):
        fetch(fake, store, receipts, heard=listen)
    assert heard == [threading.current_thread().name] * 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]
    # What was not begun was not begun any more.
    assert store.calls.get("download", 0) <= 4


class _SlowStore(FakeStore):
    """Makes its caller wait before every piece."""

    def download(self, key: str, path: Path, *, offset: int = 0) -> Iterator[int]:
        for count in super().download(key, path, offset=offset):
            time.sleep(0.1)
            yield count


@pytest.mark.parametrize("large", [False, True])
def test_whoever_stops_waits_for_no_whole_download(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setattr(fetching, "BEAT_SECONDS", 0.02)
    if large:
        monkeypatch.setattr(fetching, "SMALL_BYTES", 1)
    store = _SlowStore(chunk_bytes=1)
    receipts = [receipt(store, epoch) for epoch in range(1, 7)]
    began = time.monotonic()

    def listen(_name: str, _count: int) -> None:
        if time.monotonic() - began > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(fake, store, receipts, heard=listen)
    assert time.monotonic() - began < 10, "a download of this store takes 25 s"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("fetch", "download"))]
    assert all(path.stat().st_size > 1 for path in fake.home.models_dir.glob("*.part")), "kept to go on from"
    assert list(fake.home.models_dir.glob("*.part"))


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("error", [StorageError("not renewed"), OSError("no local lock"), LeaseHeld("lost")])
def test_an_error_of_the_listener_is_not_taken_for_the_artefacts(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch, at_once: int, error: Exception
) -> None:
    store = FakeStore()
    receipts = [receipt(store, epoch) for epoch in (1, 2, 3)]

    def listen(_name: str, _count: int) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fetch(fake, store, receipts, at_once=at_once, heard=listen)
    assert caught.value is error


def test_room_is_promised_once(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two come side by side where there is room for one: one comes whole, the other is not begun."""
    monkeypatch.setattr(fetching, "SMALL_BYTES", 1)
    store = _SlowStore(chunk_bytes=2 << 20)
    pair = [receipt(store, epoch) for epoch in (2, 4)]
    data = bytes(8 << 20)
    pair = [
        item.model_copy(update={"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        for item in pair
    ]
    for item in pair:
        store.put(keys.attempt_prefix(RUN, 1) + item.key, data)
    disk = FREE_BYTES_MIN + 12 * (1 << 20)

    def usage(_: object) -> SimpleNamespace:
        return SimpleNamespace(free=disk - sum(p.stat().st_size for p in fake.home.models_dir.iterdir()))

    monkeypatch.setattr("launcher.results.room.shutil.disk_usage", usage)
    found = [item for batch in fetch(fake, store, pair) for item in batch]
    assert sorted(item.path is not None for item in found) == [False, True]
    refused = next(item.error for item in found if item.error)
    assert isinstance(refused, LocalDiskError) and "needs 8 MiB more" in str(refused)
    assert not list(fake.home.models_dir.glob("*.part")), "none was begun in vain"


def test_a_whole_run_ends_the_same_with_many_at_once(fake: FakeWorld) -> None:
    fake.start()
    world = replace(fake.world, pulls_at_once=6)
    record: RunRecord = Loop(world, fake.journal()).drive(RUN)
    assert record.phase is Phase.DONE
    assert sorted(item.receipt.epoch for item in record.checkpoints()) == list(range(2, 2 * MANY + 1, 2))
    assert not record.missing and not record.checkpoints_not_home()
    assert len(list(fake.home.models_dir.glob("*-0*.safetensors"))) == MANY
