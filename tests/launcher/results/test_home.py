"""The user's folders: names of our own, whole files, and errors that say what to do."""

import errno
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.contract.manifest import EvaluationPlan, SamplePrompt
from job.contract.recipe import Recipe, TrainerName
from job.contract.records import ArtefactKind, Receipt
from launcher.errors import IntegrityError, LeaseHeld, LocalDiskError
from launcher.model import Brought, Budget, RunRecord, RunSpec, Selection
from launcher.results import unpacking
from launcher.results.home import Home
from launcher.results.unpacking import unpack
from tests.fakes.store import FakeStore

AT = datetime(2026, 1, 1, tzinfo=UTC)
IMAGE = os.urandom(3000)


class House:
    """A home, a store, and a run whose artefacts come from one to the other."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "models", folder / ".retrain")
        self.store = FakeStore(chunk_bytes=1000)
        plan = EvaluationPlan(prompts=tuple(SamplePrompt(name=n, prompt=n, seed=1) for n in ("000", "001")))
        spec = RunSpec(
            output_name="punks", provider="process", trainer=TrainerName.DIFFUSERS,
            recipe=Recipe(output_name="punks", max_epochs=4, save_every=2), inputs=(), evaluation=plan,
            budget=Budget(cap_dollars=1, max_seconds=3600),
        )  # fmt: skip
        self.record = RunRecord(run_id="run-1", created_at=AT, spec=spec)

    def receipt(
        self, data: bytes, *, kind: ArtefactKind = ArtefactKind.CHECKPOINT, epoch: int = 2, **changes: Any
    ) -> Receipt:
        """Put an artefact in the store and return its receipt; the name in it is the pod's."""
        key = f"{kind.value}/{epoch}"
        self.store.put(key, data)
        fields: dict[str, Any] = {
            "run_id": "run-1", "attempt": 1, "life": 1, "at": AT, "kind": kind, "key": key, "epoch": epoch,
            "name": "any.name", "step": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip
        return Receipt(**fields | changes)

    def bring(self, receipt: Receipt) -> Path:
        """Fetch an artefact and note it in the record, as the loop does."""
        path = self.home.fetch(self.store, receipt.key, receipt, self.record)
        brought = Brought(receipt=receipt, path=str(path), at=AT)
        self.record = self.record.model_copy(update={"brought": (*self.record.brought, brought)})
        return path

    def select(self, epoch: int) -> None:
        self.record = self.record.model_copy(update={"selection": Selection(epoch=epoch, why="")})

    def files(self) -> set[str]:
        """Every file that a person sees."""
        models = self.home.models_dir
        found = (path.relative_to(models) for path in models.rglob("*") if path.is_file())
        return {path.as_posix() for path in found if not path.name.startswith(".")}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def no_space(*_args: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# Names.


@pytest.mark.parametrize(
    "name",
    ["precious.safetensors", "punks.safetensors", "punks-000004.safetensors", "../x", "epoch-000004", ""],
)
def test_the_pod_has_no_say_in_names(house: House, name: str) -> None:
    house.home.models_dir.mkdir()
    (house.home.models_dir / "precious.safetensors").write_bytes(b"another run's model")
    house.bring(house.receipt(b"checkpoint", name=name))
    house.bring(house.receipt(zipped(("000.png", IMAGE)), kind=ArtefactKind.SAMPLES, name=name))
    house.bring(house.receipt(b"{}", kind=ArtefactKind.SCORES, name=name))
    assert house.files() == {
        "precious.safetensors",
        "punks-000002.safetensors",
        "punks/samples/epoch-000002.zip",
        "punks/samples/epoch-000002/000.png",
        "punks/scores/epoch-000002.json",
    }
    assert (house.home.models_dir / "precious.safetensors").read_bytes() == b"another run's model"


def test_a_resume_state_has_no_place_at_home(house: House) -> None:
    with pytest.raises(IntegrityError):
        house.bring(house.receipt(b"state", kind=ArtefactKind.STATE))
    assert house.home.absent(house.record) == ()


def test_who_waits_is_told_and_may_end_it(house: House) -> None:
    came: list[tuple[str, int]] = []
    receipt = house.receipt(bytes(2500))

    def lost(name: str, count: int) -> None:
        came.append((name, count))
        raise LeaseHeld("another launcher took over")

    with pytest.raises(LeaseHeld):
        house.home.fetch(house.store, receipt.key, receipt, house.record, on_bytes=lost)
    assert came == [("punks-000002.safetensors", 1000)]
    assert house.bring(receipt).read_bytes() == bytes(2500)


# Samples.


def broken_deflate() -> bytes:
    data = bytearray(zipped(("000.png", bytes(range(256)) * 40)))
    data[37:45] = b"\xff" * 8
    return bytes(data)


def encrypted() -> bytes:
    data = bytearray(zipped(("000.png", IMAGE)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


def of_method(number: int) -> bytes:
    data = bytearray(zipped(("000.png", IMAGE)))
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(signature) + offset] = number
    return bytes(data)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"no zip", zipped(("000.png", IMAGE))[:-30], broken_deflate(), encrypted(), of_method(99),
        zipped(("000.png", IMAGE), method=zipfile.ZIP_LZMA), of_method(zipfile.ZIP_BZIP2),
        zipped(("000.png", IMAGE)).replace(b"PK\x03\x04", b"PK\x03\x05"),
    ],
)  # fmt: skip
def test_a_damaged_zip_is_the_pods_fault(house: House, content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"epoch-000002\.zip cannot be unpacked") as caught:
        house.bring(house.receipt(content, kind=ArtefactKind.SAMPLES))
    assert caught.value.next_step


GOOD = zipped(("000.png", IMAGE), ("001.png", IMAGE))


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_whatever_bytes_come_nothing_else_is_raised(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("zip")
    content = bytearray(GOOD)
    for position, value in changes:
        # Headers lie at both ends: that is where parsing goes wrong.
        content[-1 - position % 200 if position % 2 else position % 40] = value
    (folder / "x.zip").write_bytes(content)
    with suppress(IntegrityError):
        unpack(folder / "x.zip", folder / "x", {"000.png", "001.png"})
    assert {path.name for path in folder.iterdir()} <= {"x.zip", "x"}
    shutil.rmtree(folder)


def test_only_what_the_plan_names_comes_out_and_the_first_of_each(house: House) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zipped(
            ("../000.png", b"up"), ("/000.png", b"root"), ("000.png", b"first"), ("evil.sh", b""),
            ("000.png", b"second"),
        )  # fmt: skip
    path = house.bring(house.receipt(content, kind=ArtefactKind.SAMPLES))
    assert {item.name: item.read_bytes() for item in path.with_suffix("").iterdir()} == {"000.png": b"first"}


@pytest.mark.parametrize(("limit", "value"), [("ENTRY_BYTES_MAX", 2999), ("TOTAL_BYTES_MAX", 5999)])
def test_a_zip_that_would_fill_the_disk_is_refused_unopened(
    house: House, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(unpacking, limit, value)
    with pytest.raises(IntegrityError, match="holds"):
        house.bring(house.receipt(GOOD, kind=ArtefactKind.SAMPLES))
    assert house.files() == {"punks/samples/epoch-000002.zip"}


def test_a_full_disk_is_not_the_pods_fault(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = house.receipt(GOOD, kind=ArtefactKind.SAMPLES)
    with monkeypatch.context() as patch:
        patch.setattr("launcher.results.unpacking.write_atomically", no_space)
        with pytest.raises(LocalDiskError, match="the disk is full") as caught:
            house.bring(receipt)
    assert "Make room" in caught.value.next_step
    assert (house.bring(receipt).with_suffix("") / "001.png").read_bytes() == IMAGE


# What is here and what is not.


def test_home_is_looked_at_not_believed(house: House) -> None:
    first, second = house.receipt(b"epoch 2"), house.receipt(b"epoch 4", epoch=4)
    samples = house.receipt(GOOD, kind=ArtefactKind.SAMPLES)
    paths = [house.bring(receipt) for receipt in (first, second, samples)]
    assert house.home.absent(house.record) == ()
    paths[0].write_bytes(b"EPOCH 2")
    paths[2].unlink()
    assert [item.receipt for item in house.home.absent(house.record)] == [first, samples]
    shutil.rmtree(house.home.models_dir)
    assert [item.receipt for item in house.home.absent(house.record)] == [first, second, samples]
    for receipt in (first, second, samples):
        house.home.fetch(house.store, receipt.key, receipt, house.record)
    assert house.home.absent(house.record) == ()


def test_a_look_is_cheap(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.bring(house.receipt(b"epoch 2"))
    monkeypatch.setattr("launcher.results.verified.sha256_of", lambda *_, **__: pytest.fail("hashed again"))
    assert house.home.absent(house.record) == ()


def test_the_newest_attempts_version_counts(house: House) -> None:
    old, new = house.receipt(b"old"), house.receipt(b"new", attempt=2)
    house.bring(new)
    house.store.put(old.key, b"old")
    house.bring(old)
    assert [item.receipt for item in house.home.absent(house.record)] == [new]


def test_what_lies_on_another_machine_is_not_here(house: House, tmp_path: Path) -> None:
    house.bring(house.receipt(b"epoch 2"))
    elsewhere = Home(tmp_path / "b" / "models", tmp_path / "b")
    assert elsewhere.absent(house.record) == house.record.brought
    assert not elsewhere.models_dir.exists()


def test_a_file_that_cannot_be_read_is_not_here(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.bring(house.receipt(b"epoch 2"))
    (house.home.models_dir / ".verified.jsonl").unlink()

    def broken(*_: object, **__: object) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("launcher.results.verified.sha256_of", broken)
    assert house.home.absent(house.record) == house.record.brought


# The end of a run.


def test_the_selected_checkpoint_becomes_the_model(house: House, tmp_path: Path) -> None:
    path = house.bring(house.receipt(b"epoch 2"))
    house.select(2)
    elsewhere = house.record.brought[0].model_copy(update={"path": "/another/machine"})
    house.record = house.record.model_copy(update={"brought": (elsewhere,)})
    for _ in range(2):
        finished = house.home.finish(house.record)
        assert house.home.selected("punks").read_bytes() == b"epoch 2"
        assert [item.path for item in finished.brought] == [str(path)]
        written = (house.home.results("punks") / "run.json").read_bytes()
        assert RunRecord.model_validate_json(written) == finished


def test_paths_of_files_that_are_not_here_stay_as_they_were(house: House) -> None:
    house.bring(house.receipt(b"epoch 2")).unlink()
    elsewhere = house.record.brought[0].model_copy(update={"path": "/another/machine"})
    house.record = house.record.model_copy(update={"brought": (elsewhere,)})
    assert house.home.finish(house.record).brought == (elsewhere,)


@pytest.mark.parametrize("content", [b"epoch", b"EPOCH 2", b"", None])
def test_what_is_not_the_checkpoint_is_never_promoted(house: House, content: bytes | None) -> None:
    path = house.bring(house.receipt(b"epoch 2"))
    house.select(2)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LocalDiskError, match=r"punks-000002\.safetensors") as caught:
        house.home.finish(house.record)
    assert caught.value.next_step
    assert not house.home.selected("punks").exists()
    assert not list(house.home.models_dir.glob(".*.part"))


def test_a_model_that_was_damaged_is_made_again(house: House) -> None:
    house.bring(house.receipt(b"epoch 2"))
    house.select(2)
    house.home.finish(house.record)
    house.home.selected("punks").write_bytes(b"EPOCH 2")
    house.home.finish(house.record)
    assert house.home.selected("punks").read_bytes() == b"epoch 2"


def test_a_selection_that_never_came_home_is_an_error(house: House) -> None:
    house.select(2)
    with pytest.raises(LocalDiskError, match="epoch 2"):
        house.home.finish(house.record)


# A disk that is full, a folder that is a file.


def set_aside(house: House) -> None:
    house.home.set_aside("punks", AT)


def finish(house: House) -> None:
    house.home.finish(house.record)


def scratch(house: House) -> None:
    house.home.scratch()


@pytest.mark.parametrize(
    ("broken", "act"),
    [
        ("launcher.results.home.write_atomically", finish),
        ("launcher.results.home.replacing", finish),
        ("launcher.results.home.shutil.move", set_aside),
        ("launcher.results.home.Path.mkdir", set_aside),
        ("launcher.results.home.Path.mkdir", scratch),
        ("launcher.machine.files.Path.mkdir", finish),
    ],
)
def test_no_error_of_the_disk_escapes_raw(
    house: House, monkeypatch: pytest.MonkeyPatch, broken: str, act: Callable[[House], None]
) -> None:
    house.bring(house.receipt(b"epoch 2"))
    house.select(2)
    monkeypatch.setattr(broken, no_space)
    with pytest.raises(LocalDiskError, match="the disk is full") as caught:
        act(house)
    assert "Make room" in caught.value.next_step
    assert str(house.home.models_dir.parent) in str(caught.value)


def test_a_file_in_the_place_of_a_folder_is_said(house: House, tmp_path: Path) -> None:
    (tmp_path / ".retrain").write_text("")
    with pytest.raises(LocalDiskError, match="scratch"):
        house.home.scratch()
    (tmp_path / "models").write_text("")
    with pytest.raises(LocalDiskError, match="models"):
        house.bring(house.receipt(b"epoch 2"))
    with pytest.raises(LocalDiskError, match="models"):
        house.home.finish(house.record)


def test_two_runs_set_aside_in_one_second_keep_both(house: House) -> None:
    folders = []
    for content in (b"first", b"second"):
        house.home.models_dir.mkdir(exist_ok=True)
        (house.home.models_dir / "punks-000002.safetensors").write_bytes(content)
        folders.append(house.home.set_aside("punks", AT))
    kept = [folder / "punks-000002.safetensors" for folder in folders if folder]
    assert [path.read_bytes() for path in kept] == [b"first", b"second"]
