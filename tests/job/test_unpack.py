"""Archives that attack, and archives that are merely odd."""

import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from job import unpack
from job.contract.reasons import Reason
from job.errors import JobError
from job.unpack import Zip, unpack_dataset, unpack_tar, unpack_tree

PAIR = {"a.png": b"image", "a.txt": b"caption"}


def write(
    path: Path, files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None
) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if change is not None and name not in PAIR:
                change(info)
            archive.writestr(info, data)
    return path


def dataset(path: Path, folder: Path) -> int:
    archive = Zip(path, reason=Reason.BAD_DATASET, noun="the dataset")
    return unpack_dataset(archive, folder, repeat_count=10, caption_extension=".txt")


def refusal(path: Path, folder: Path) -> str:
    with pytest.raises(JobError) as caught:
        dataset(path, folder / "data")
    assert caught.value.reason is Reason.BAD_DATASET
    outside = {p for p in folder.rglob("*") if p.is_file()} - {path}
    assert all(p.is_relative_to(folder / "data") for p in outside)
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil.png", "leads out of the folder"),
        ("sub/../../evil.png", "leads out of the folder"),
        ("..\\evil.png", "leads out of the folder"),
        ("/etc/evil.png", "absolute path"),
        ("C:\\evil.png", "absolute path"),
        ("\\\\server\\evil.png", "absolute path"),
        ("x" * 250 + ".png", "too long"),
        ("evil\x07.png", "control characters"),
        ("A.PNG", "more than case"),
        ("deep/a.png", "more than case"),
        ("deep/a.jpg", "more than case"),
        ("b.png", "1 image (b.png) without a .txt caption"),
        ("b.txt", "1 caption (b.txt) without an image"),
        ("deep/b.png", "deep/b.png"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, name: str, words: str) -> None:
    path = write(tmp_path / "d.zip", PAIR | {name: b"x"})
    assert words in refusal(path, tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    def change(info: zipfile.ZipInfo) -> None:
        info.create_system = 3
        info.external_attr = (kind | 0o777) << 16

    path = write(tmp_path / "d.zip", PAIR | {"b.png": b"/etc/passwd"}, change)
    assert "b.png, which is a link or a device" in refusal(path, tmp_path)


def patched(path: Path, field: int, size: str, value: int) -> Path:
    """Change a field of the last entry's central and local header."""
    data = bytearray(path.read_bytes())
    central = data.rfind(b"PK\x01\x02")
    local = struct.unpack_from("<I", data, central + 42)[0]
    struct.pack_into(size, data, central + field, value)
    struct.pack_into(size, data, local + field - 2, value)
    path.write_bytes(data)
    return path


def test_encrypted_entries_are_refused(tmp_path: Path) -> None:
    path = patched(write(tmp_path / "d.zip", PAIR | {"b.png": b"x"}), 8, "<H", 1)
    assert "b.png, which is encrypted" in refusal(path, tmp_path)


def test_an_entry_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    path = patched(write(tmp_path / "d.zip", {"a.txt": b"t", "a.png": b"x" * 5000}), 24, "<I", 10)
    assert "a.png" in refusal(path, tmp_path)


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    path = patched(write(tmp_path / "d.zip", {"a.txt": b"t", "a.png": b"x"}), 10, "<H", 99)
    assert "a.png" in refusal(path, tmp_path)


def test_a_damaged_entry_is_refused(tmp_path: Path) -> None:
    path = patched(write(tmp_path / "d.zip", {"a.txt": b"t", "a.png": b"x"}), 16, "<I", 1)
    assert "a.png, which is damaged" in refusal(path, tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path / "d.zip", PAIR | {"b.png": bytes(70 << 20)})
    assert "times its size" in refusal(path, tmp_path)


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "ENTRIES_MAX", 2)
    assert "3 entries" in refusal(write(tmp_path / "d.zip", PAIR | {"b": b""}), tmp_path)


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x05\x06" + b"\0" * 10])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "d.zip").write_bytes(data)
    assert "no readable zip" in refusal(tmp_path / "d.zip", tmp_path)


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    assert "holds no images" in refusal(write(tmp_path / "d.zip", {"README.md": b""}), tmp_path)


def test_many_missing_captions_are_listed_in_part(tmp_path: Path) -> None:
    path = write(tmp_path / "d.zip", {f"{n}.png": b"" for n in range(8)})
    assert "8 images (0.png, 1.png, 2.png, 3.png, 4.png and 3 more)" in refusal(path, tmp_path)


def test_kohyas_layout_whatever_the_nesting(tmp_path: Path) -> None:
    files = {
        "pack/set/a.png": b"1",
        "pack/set/a.txt": b"one",
        "./b.JPG": b"2",
        "b.TXT": b"two",
        "c.v2.webp": b"3",
        "c.v2.txt": b"three",
        "notes.md": b"",
        "__MACOSX/pack/._a.png": b"",
        ".DS_Store": b"",
        "pack/Thumbs.db": b"",
        "pack/": b"",
    }
    assert dataset(write(tmp_path / "d.zip", files), tmp_path / "data") == 3
    found = {
        p.relative_to(tmp_path / "data").as_posix(): p.read_bytes() for p in tmp_path.rglob("10_subset/*")
    }
    assert found == {
        "10_subset/a.png": b"1",
        "10_subset/a.txt": b"one",
        "10_subset/b.JPG": b"2",
        "10_subset/b.txt": b"two",
        "10_subset/c.v2.webp": b"3",
        "10_subset/c.v2.txt": b"three",
    }


def test_a_tree_keeps_its_folders(tmp_path: Path) -> None:
    path = write(tmp_path / "m.zip", {"m/unet/config.json": b"{}", "m/model_index.json": b"{}"})
    unpack_tree(Zip(path, reason=Reason.BAD_BASE_MODEL, noun="the base model"), tmp_path / "base")
    assert (tmp_path / "base/m/unet/config.json").read_bytes() == b"{}"


@pytest.mark.parametrize("files", [{"a": b"", "A": b""}, {"a": b"", "a/b": b""}])
def test_a_tree_whose_names_collide_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    archive = Zip(write(tmp_path / "m.zip", files), reason=Reason.BAD_BASE_MODEL, noun="the base model")
    with pytest.raises(JobError):
        unpack_tree(archive, tmp_path / "base")


def tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        member.size = 1 if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(b"x"))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../evil", tarfile.REGTYPE, ""),
        ("deep/../../evil", tarfile.REGTYPE, ""),
        ("../evil", tarfile.DIRTYPE, ""),
        ("/retrain-evil", tarfile.REGTYPE, ""),
        ("evil", tarfile.SYMTYPE, "/etc/passwd"),
        ("evil", tarfile.LNKTYPE, "/etc/passwd"),
        ("evil", tarfile.FIFOTYPE, ""),
    ],
)
def test_tars_that_attack(tmp_path: Path, name: str, kind: bytes, link: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(JobError) as caught:
        unpack_tar(tar(tmp_path / "t.tar", name, kind, link), tmp_path / "in")
    assert caught.value.reason is Reason.BAD_INPUT
    assert not (tmp_path / "evil").exists() and not (tmp_path / "in/evil").exists()
    assert not Path("/retrain-evil").exists()


def test_what_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(b"x" * 2000)
    with pytest.raises(JobError):
        unpack_tar(tmp_path / "t.tar", tmp_path)
