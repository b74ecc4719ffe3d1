"""Files come home whole and verified, or not at all."""

import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.contract.records import ArtefactKind, Receipt
from launcher.errors import FileInUse, IntegrityError, LeaseHeld, LocalDiskError, ObjectMissing, StorageError
from launcher.machine.files import sha256_of, sync
from launcher.machine.locking import FileLock
from launcher.ports import Store
from launcher.results import pullback
from launcher.results.pullback import PullBack, file_name
from launcher.results.verified import Verified
from tests.fakes.store import FakeStore

KEY = "runs/r/attempts/1/checkpoints/lora-000002.safetensors"
NAME = "lora-000002.safetensors"
CONTENT = os.urandom(5000)


def receipt(content: bytes = CONTENT, name: str = NAME, **changes: Any) -> Receipt:
    fields: dict[str, Any] = {
        "run_id": "r", "attempt": 1, "life": 1, "at": datetime(2026, 1, 1, tzinfo=UTC),
        "kind": ArtefactKind.CHECKPOINT, "key": f"checkpoints/{name}", "name": name, "epoch": 2, "step": 20,
        "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    return Receipt(**fields | changes)


@pytest.fixture
def store() -> FakeStore:
    store = FakeStore(chunk_bytes=1000)
    store.put(KEY, CONTENT)
    return store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models" / "run"


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_file_comes_home(store: FakeStore, home: Path) -> None:
    came: list[tuple[str, int]] = []
    path = PullBack(store, home, on_bytes=lambda name, count: came.append((name, count))).pull(KEY, receipt())
    assert path == home / NAME
    assert path.read_bytes() == CONTENT
    assert visible(home) == {NAME}
    assert came == [(NAME, 1000)] * 5


def test_it_may_have_another_name_here(store: FakeStore, home: Path) -> None:
    assert PullBack(store, home).pull(KEY, receipt(), name="lora.safetensors") == home / "lora.safetensors"


@pytest.mark.slow
def test_a_file_comes_home_from_a_real_server(embedded_store: Store, home: Path) -> None:
    content = os.urandom(3 << 20)
    embedded_store.put(KEY, content)
    home.mkdir(parents=True)
    (home / f"{NAME}.part").write_bytes(content[: 1 << 20])
    assert PullBack(embedded_store, home).pull(KEY, receipt(content)).read_bytes() == content


def test_what_is_there_is_not_fetched_again_nor_hashed(
    store: FakeStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PullBack(store, home).pull(KEY, receipt())
    monkeypatch.setattr("launcher.results.verified.sha256_of", lambda *_, **__: pytest.fail("hashed again"))
    for fill in (PullBack(store, home), PullBack(store, home)):
        fill.pull(KEY, receipt())
    assert store.calls["download"] == 1


@pytest.mark.parametrize("record", ["", "[]", '{"x": 1}'])
def test_a_lost_record_costs_a_hash_and_no_download(store: FakeStore, home: Path, record: str) -> None:
    PullBack(store, home).pull(KEY, receipt())
    (home / ".verified.jsonl").write_text(record)
    PullBack(store, home).pull(KEY, receipt())
    assert store.calls["download"] == 1


def test_a_file_that_was_changed_here_is_fetched_again(store: FakeStore, home: Path) -> None:
    path = PullBack(store, home).pull(KEY, receipt())
    path.write_bytes(bytes(len(CONTENT)))
    assert PullBack(store, home).pull(KEY, receipt()).read_bytes() == CONTENT
    assert store.calls["download"] == 2


def test_a_newer_receipt_of_the_same_size_replaces_the_file(store: FakeStore, home: Path) -> None:
    PullBack(store, home).pull(KEY, receipt())
    newer = bytes(len(CONTENT))
    store.put(KEY, newer)
    assert PullBack(store, home).pull(KEY, receipt(newer)).read_bytes() == newer


def test_a_link_is_not_taken_for_the_file(store: FakeStore, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "elsewhere").write_bytes(CONTENT)
    (home / NAME).symlink_to(home / "elsewhere")
    path = PullBack(store, home).pull(KEY, receipt())
    assert not path.is_symlink()


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 5000), max_size=4), size=st.integers(0, 5000))
def test_broken_off_anywhere_it_ends_in_the_right_file(cuts: list[int], size: int) -> None:
    content = CONTENT[:size]
    store = FakeStore(chunk_bytes=777)
    store.put(KEY, content)
    with TemporaryDirectory() as folder:
        home = Path(folder)
        for cut in cuts:
            store.break_downloads(1, after=cut)
            try:
                PullBack(store, home).pull(KEY, receipt(content))
            except StorageError:
                assert not (home / NAME).exists()
                assert (home / f"{NAME}.part").stat().st_size < size
        store.break_downloads(0, after=0)
        assert PullBack(store, home).pull(KEY, receipt(content)).read_bytes() == content
        assert visible(home) == {NAME}


@settings(max_examples=60, deadline=None)
@given(left=st.binary(max_size=6000))
def test_whatever_was_left_it_ends_in_the_right_file(left: bytes) -> None:
    store = FakeStore(chunk_bytes=777)
    store.put(KEY, CONTENT)
    with TemporaryDirectory() as folder:
        home = Path(folder)
        (home / f"{NAME}.part").write_bytes(left)
        assert PullBack(store, home).pull(KEY, receipt()).read_bytes() == CONTENT
        assert visible(home) == {NAME}


def test_a_resume_fetches_only_what_is_missing(store: FakeStore, home: Path) -> None:
    store.break_downloads(1, after=4200)
    with pytest.raises(StorageError):
        PullBack(store, home).pull(KEY, receipt())
    counts: list[int] = []
    PullBack(store, home, on_bytes=lambda _, count: counts.append(count)).pull(KEY, receipt())
    assert sum(counts) == 800


def test_a_damaged_object_is_tried_twice_and_named(store: FakeStore, home: Path) -> None:
    store.corrupt(KEY)
    damaged = hashlib.sha256(store.get(KEY)[0]).hexdigest()
    with pytest.raises(IntegrityError) as caught:
        PullBack(store, home).pull(KEY, receipt())
    for part in (NAME, damaged, receipt().sha256):
        assert part in str(caught.value)
    assert caught.value.next_step
    assert store.calls["download"] == 2
    assert visible(home) == set()


def test_a_damaged_object_leaves_the_good_file_of_before(store: FakeStore, home: Path) -> None:
    path = PullBack(store, home).pull(KEY, receipt())
    with pytest.raises(IntegrityError):
        PullBack(store, home).pull(KEY, receipt(b"something else"))
    assert path.read_bytes() == CONTENT


def test_an_object_that_is_too_short_is_damaged(store: FakeStore, home: Path) -> None:
    store.put(KEY, CONTENT[:100])
    home.mkdir(parents=True)
    (home / f"{NAME}.part").write_bytes(CONTENT[:200])
    with pytest.raises(IntegrityError):
        PullBack(store, home).pull(KEY, receipt())
    assert visible(home) == set()


def test_an_object_that_is_too_long_is_not_read_to_its_end(store: FakeStore, home: Path) -> None:
    store.put(KEY, CONTENT + bytes(1_000_000))
    counts: list[int] = []
    with pytest.raises(IntegrityError):
        PullBack(store, home, on_bytes=lambda _, count: counts.append(count)).pull(KEY, receipt())
    assert sum(counts) <= 2 * (len(CONTENT) + store.chunk_bytes)


def test_a_missing_object_leaves_nothing(store: FakeStore, home: Path) -> None:
    with pytest.raises(ObjectMissing):
        PullBack(store, home).pull("nowhere", receipt())
    assert visible(home) == set()


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", ".hidden", "-rf", "a b", "a\n", "a\0b", "x.part",
        "CON", "nul.txt", "com1.safetensors", "é", "a" * 152, "C:x", "~", "dot.",
    ],
)  # fmt: skip
def test_a_name_that_is_a_path_or_a_trick_is_refused(store: FakeStore, home: Path, name: str) -> None:
    with pytest.raises(IntegrityError):
        PullBack(store, home).pull(KEY, receipt(name=name))
    assert not home.exists()


@given(st.text(max_size=20))
def test_a_name_that_is_accepted_stays_in_its_folder(name: str) -> None:
    try:
        accepted = file_name(name)
    except IntegrityError:
        return
    assert (Path("/home/models") / accepted).resolve().parent == Path("/home/models")


def test_a_disk_without_room_is_said_before_anything_is_fetched(
    store: FakeStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.results.room.shutil.disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    with pytest.raises(LocalDiskError, match="64 MiB free") as caught:
        PullBack(store, home).pull(KEY, receipt())
    assert "goes on" in caught.value.next_step
    assert "download" not in store.calls


class _FullDisk(FakeStore):
    """A store whose bytes find no room here after the first thousand."""

    def download(self, key: str, path: Path, *, offset: int = 0) -> Iterator[int]:
        for count in super().download(key, path, offset=offset):
            yield count
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_keeps_what_came(home: Path) -> None:
    store = _FullDisk(chunk_bytes=1000)
    store.put(KEY, CONTENT)
    with pytest.raises(LocalDiskError, match="the disk is full"):
        PullBack(store, home).pull(KEY, receipt())
    assert (home / f"{NAME}.part").read_bytes() == CONTENT[:1000]
    assert not (home / NAME).exists()


def test_a_folder_that_cannot_be_is_said(store: FakeStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalDiskError) as caught:
        PullBack(store, tmp_path / "file" / "models").pull(KEY, receipt())
    assert "folder" in caught.value.next_step


def test_two_launchers_do_not_fetch_one_file(
    store: FakeStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pullback, "LOCK_SECONDS", 0.1)
    home.mkdir(parents=True)
    other = FileLock(home / f".{NAME}.lock")
    assert other.take()
    with pytest.raises(FileInUse, match="Another retrain") as caught:
        PullBack(store, home).pull(KEY, receipt())
    assert "next pass" in caught.value.next_step
    assert "download" not in store.calls
    other.release()
    PullBack(store, home).pull(KEY, receipt())


def test_two_runs_fetch_into_one_folder_at_once(store: FakeStore, home: Path) -> None:
    def meanwhile(_name: str, _count: int) -> None:
        PullBack(store, home).pull(KEY, receipt(), name="other.safetensors")

    PullBack(store, home, on_bytes=meanwhile).pull(KEY, receipt())
    assert visible(home) == {NAME, "other.safetensors"}
    store.calls.clear()
    for name in visible(home):
        PullBack(store, home).pull(KEY, receipt(), name=name)
    assert "download" not in store.calls
    assert {path.name for path in home.iterdir()} == {NAME, "other.safetensors", ".verified.jsonl"}


class _SlowStore(FakeStore):
    """A store that makes its caller wait before every piece."""

    wait = 0.3

    def download(self, key: str, path: Path, *, offset: int = 0) -> Iterator[int]:
        for count in super().download(key, path, offset=offset):
            time.sleep(self.wait)
            yield count


def test_a_slow_download_gives_signs_of_life(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pullback, "BEAT_SECONDS", 0.05)
    store = _SlowStore(chunk_bytes=2500)
    store.put(KEY, CONTENT)
    counts: list[int] = []
    path = PullBack(store, home, on_bytes=lambda _, count: counts.append(count)).pull(KEY, receipt())
    assert path.read_bytes() == CONTENT
    assert counts.count(0) >= 4
    assert sum(counts) == len(CONTENT)


def test_hashing_gives_signs_of_life(store: FakeStore, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PullBack(store, home).pull(KEY, receipt())
    (home / ".verified.jsonl").unlink()
    monkeypatch.setattr(pullback, "BEAT_SECONDS", 0.0)
    came: list[tuple[str, int]] = []
    PullBack(store, home, on_bytes=lambda name, count: came.append((name, count))).pull(KEY, receipt())
    assert came == [(NAME, 0)]


@pytest.mark.parametrize("store", [FakeStore(chunk_bytes=100), _SlowStore(chunk_bytes=1000)])
def test_who_is_told_may_end_it_and_it_goes_on_later(
    store: FakeStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pullback, "BEAT_SECONDS", 0.1)
    store.put(KEY, CONTENT)
    heard: list[int] = []

    def lost(_name: str, count: int) -> None:
        heard.append(count)
        if sum(heard) >= 2000:
            raise LeaseHeld("another launcher took over")

    with pytest.raises(LeaseHeld):
        PullBack(store, home, on_bytes=lost).pull(KEY, receipt())
    assert not [thread for thread in threading.enumerate() if thread.name == "download"]
    left = (home / f"{NAME}.part").read_bytes()
    assert 2000 <= len(left) < len(CONTENT) and CONTENT.startswith(left)
    counts: list[int] = []
    path = PullBack(store, home, on_bytes=lambda _, count: counts.append(count)).pull(KEY, receipt())
    assert path.read_bytes() == CONTENT
    assert sum(counts) == len(CONTENT) - len(left)


def test_a_note_that_cannot_be_kept_loses_no_file(store: FakeStore, home: Path) -> None:
    (home / ".verified.jsonl").mkdir(parents=True)
    assert PullBack(store, home).pull(KEY, receipt()).read_bytes() == CONTENT


def test_a_note_that_was_cut_off_costs_a_hash_and_no_download(store: FakeStore, home: Path) -> None:
    PullBack(store, home).pull(KEY, receipt())
    record = home / ".verified.jsonl"
    record.write_bytes(record.read_bytes()[:-20])
    assert Verified(home).holds(NAME, receipt())
    assert store.calls["download"] == 1


def test_what_another_run_noted_stays_noted(store: FakeStore, home: Path) -> None:
    ours, theirs = Verified(home), Verified(home)
    for name in ("one", "two"):
        PullBack(store, home).pull(KEY, receipt(), name=name)
    (home / ".verified.jsonl").unlink()
    for notes, name in ((ours, "one"), (theirs, "two"), (ours, "one")):
        notes.remember(name, receipt(), (home / name).stat())
    fails = Verified(home, beat=lambda: pytest.fail("hashed again"))
    assert fails.holds("one", receipt()) and fails.holds("two", receipt())


def test_nothing_is_named_before_it_is_on_the_disk(
    store: FakeStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("launcher.machine.files.os.fsync", refuse)
    with pytest.raises(LocalDiskError, match="Input/output error"):
        PullBack(store, home).pull(KEY, receipt())
    assert visible(home) == {f"{NAME}.part"}


# What is believed without a hash.


def test_a_file_changed_in_place_is_not_believed_with_its_old_mtime(store: FakeStore, home: Path) -> None:
    path = PullBack(store, home).pull(KEY, receipt())
    before = path.stat()
    path.write_bytes(bytes(len(CONTENT)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not Verified(home).holds(NAME, receipt())


def test_a_file_changed_while_it_is_hashed_is_not_believed(
    store: FakeStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = PullBack(store, home).pull(KEY, receipt())
    (home / ".verified.jsonl").unlink()

    def hash_then_change(*args: Any, **options: Any) -> str:
        found = sha256_of(*args, **options)
        path.write_bytes(bytes(len(CONTENT)))
        return found

    monkeypatch.setattr("launcher.results.verified.sha256_of", hash_then_change)
    assert not Verified(home).holds(NAME, receipt())
    monkeypatch.undo()
    assert not Verified(home).holds(NAME, receipt())


def test_a_file_changed_between_its_hash_and_its_name_is_not_believed(
    store: FakeStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync_then_change(path: Path) -> None:
        sync(path)
        if path.name.endswith(".part"):
            path.write_bytes(bytes(len(CONTENT)))

    monkeypatch.setattr(pullback, "sync", sync_then_change)
    PullBack(store, home).pull(KEY, receipt())
    assert not Verified(home).holds(NAME, receipt())
