"""Packages from outside: what is sound is paired, what is hostile or broken is refused in one sentence."""

import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.dataset import sources
from launcher.dataset.checks import check
from launcher.dataset.findings import Severity
from launcher.dataset.reading import Dataset, open_dataset
from launcher.errors import DatasetError, Exit
from tests.launcher.dataset.packages import image, pairs, unpacked, zipped


def errors(path: Path) -> set[tuple[str, str]]:
    with open_dataset(path) as dataset:
        return {(f.code, f.file) for f in check(dataset) if f.severity is Severity.ERROR}


def refusal(path: Path) -> DatasetError:
    with pytest.raises(DatasetError) as caught, open_dataset(path):
        pass
    assert caught.value.exit_code == Exit.DATASET
    assert caught.value.next_step
    assert "\n" not in str(caught.value)
    return caught.value


def member(name: str, *, mode: int = 0o100644, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    info.compress_type = method
    return info


@pytest.mark.parametrize("make", [zipped, unpacked])
@pytest.mark.parametrize("folder", ["", "runpod_package/training_data/", "a/b/c/d/10_punk/"])
def test_pairs_are_found_in_any_folder(
    tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path], folder: str
) -> None:
    files = pairs(3, folder)
    with open_dataset(make(tmp_path / "set", files)) as dataset:
        assert [pair.stem for pair in dataset.pairs] == ["lad_000", "lad_001", "lad_002"]
        assert dataset.read(dataset.pairs[1].image) == files[f"{folder}lad_001.png"]
        assert dataset.pairs[1].caption.endswith("number 1")
        assert dataset.image_bytes == sum(len(data) for name, data in files.items() if name.endswith("png"))
        assert check(dataset) == ()


def test_images_and_captions_may_lie_apart(tmp_path: Path) -> None:
    files = {"images/a.PNG": image(), "captions/A.TXT": b"a test\n"}
    with open_dataset(zipped(tmp_path / "set.zip", files)) as dataset:
        assert [(pair.stem, pair.caption) for pair in dataset.pairs] == [("a", "a test")]
        assert check(dataset) == ()


def test_what_systems_leave_behind_is_passed_over(tmp_path: Path) -> None:
    clutter = {
        "__MACOSX/data/._lad_000.png": b"x",
        "data/.DS_Store": b"x",
        "data/Thumbs.db": b"x",
        ".cache/lad_000.png": b"x",
        "desktop.ini": b"x",
    }
    for path in (
        zipped(tmp_path / "set.zip", pairs() | clutter),
        unpacked(tmp_path / "set", pairs() | clutter),
    ):
        with open_dataset(path) as dataset:
            assert len(dataset.pairs) == 3
            assert check(dataset) == ()


def test_everything_wrong_is_listed_at_once(tmp_path: Path) -> None:
    files = pairs() | {
        "alone.png": image(),
        "left.txt": b"a caption",
        "notes.md": b"# notes",
        "latin.png": image(),
        "latin.txt": b"caf\xe9",
        "blank.png": image(),
        "blank.txt": b" \n\n",
        "second.png": image(),
        "second.txt": b"\nonly the second line says something",
        "long.png": image(),
        "long.txt": b"x" * 70_000,
        "cut.png": image(side=200, colour=(1, 2, 3))[:-30],
        "cut.txt": b"a caption",
        "text.png": b"not an image",
        "text.txt": b"a caption",
        "nothing.png": b"",
        "nothing.txt": b"a caption",
        "n" * 181 + ".png": image(),
        "n" * 181 + ".txt": b"a caption",
        "here/LAD_000.png": image(),
        "here/lad_001.txt": b"another caption",
    }
    expected = {
        ("caption-missing", "alone.png"),
        ("image-missing", "left.txt"),
        ("caption-not-utf8", "latin.txt"),
        ("caption-empty", "blank.txt"),
        ("caption-empty", "second.txt"),
        ("caption-too-large", "long.txt"),
        ("image-unreadable", "cut.png"),
        ("image-unreadable", "text.png"),
        ("image-unreadable", "nothing.png"),
        ("name-too-long", "n" * 181 + ".png"),
        ("name-collision", "here/LAD_000.png"),
        ("name-collision", "here/lad_001.txt"),
    }
    flipped = {("name-collision", "data/set/lad_000.png"), ("name-collision", "data/set/lad_001.txt")}
    found = errors(zipped(tmp_path / "set.zip", files))
    assert {(code, file) for code, file in found if code != "name-collision"} == {
        pair for pair in expected if pair[0] != "name-collision"
    }
    assert {pair for pair in found if pair[0] == "name-collision"} <= expected | flipped
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../../etc/cron.d/x.png", "unsafe-path"),
        ("data/../../x.png", "unsafe-path"),
        ("..\\..\\x.png", "unsafe-path"),
        ("/etc/x.png", "unsafe-path"),
        ("C:\\x.png", "unsafe-path"),
        ("../.ssh/authorized_keys", "unsafe-path"),
        ("a\x1b[2Jb.png", "unsafe-name"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str, code: str) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for good, data in pairs().items():
            archive.writestr(good, data)
        info = member("placeholder")
        info.filename = name  # as it is: the constructor would correct separators
        archive.writestr(info, image())
    found = errors(path)
    assert [c for c, _ in found] == [code]
    assert all(text.isprintable() for _, text in found)


@pytest.mark.parametrize(
    ("mode", "code"), [(stat.S_IFLNK | 0o777, "symlink"), (stat.S_IFIFO | 0o644, "special-file")]
)
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, mode: int, code: str) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for good, data in pairs().items():
            archive.writestr(good, data)
        archive.writestr(member("x.png", mode=mode), b"/etc/passwd")
    assert errors(path) == {(code, "x.png")}


def test_links_and_devices_in_a_folder_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    unpacked(secret, {"lad_009.txt": b"secret"})
    folder = unpacked(tmp_path / "set", pairs())
    (folder / "link.png").symlink_to(secret / "lad_009.txt")
    (folder / "more").symlink_to(secret)
    os.mkfifo(folder / "pipe.png")
    assert errors(folder) == {("symlink", "link.png"), ("symlink", "more"), ("special-file", "pipe.png")}


def test_a_member_that_is_named_twice_or_packed_unusually_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for good, data in pairs().items():
            archive.writestr(good, data)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("data/set/lad_000.png", image())
        archive.writestr(member("bz.png", method=zipfile.ZIP_BZIP2), image())
    assert errors(path) == {("name-twice", "data/set/lad_000.png"), ("zip-method", "bz.png")}


def declare(path: Path, name: str, size: int) -> None:
    """Make the zip's table of contents claim another unpacked size for a member."""
    data = bytearray(path.read_bytes())
    at = data.rfind(name.encode())
    struct.pack_into("<L", data, at - 46 + 24, size)
    path.write_bytes(data)


def test_a_declared_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", pairs() | {f"{n}.png": b"" for n in range(5)})
    for number in range(5):
        declare(path, f"{number}.png", 2**28)
    assert "a zip bomb" in str(refusal(path))
    path = zipped(tmp_path / "one.zip", pairs() | {"big.png": b"", "big.txt": b"x"})
    declare(path, "big.png", 2**28 + 1)
    assert ("file-too-large", "big.png") in errors(path)


def test_a_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", pairs() | {"big.png": bytes(2**26), "big.txt": b"x"})
    declare(path, "big.png", 100)
    assert errors(path) == {("file-damaged", "big.png")}


def test_a_table_of_contents_too_large_to_read_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", pairs())
    data = bytearray(path.read_bytes())
    struct.pack_into("<L", data, len(data) - 22 + 12, 2**31)
    path.write_bytes(data)
    assert "more than 100000 files" in str(refusal(path))


def test_more_files_than_a_data_set_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ENTRIES_MAX", 5)
    assert "more than 5 files" in str(refusal(zipped(tmp_path / "set.zip", pairs())))
    assert "more than 5 files" in str(refusal(unpacked(tmp_path / "set", pairs())))


def test_an_encrypted_package_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip", pairs(1, ""))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(signature) + offset] |= 1
    path.write_bytes(data)
    assert "is encrypted" in str(refusal(path))


def test_what_is_no_package_is_named(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "whole.zip", pairs()).read_bytes()
    cases = {
        "empty.zip": (b"", "is not a zip file"),
        "text.zip": (b"hello", "is not a zip file"),
        "cut.zip": (whole[: len(whole) // 2], "was cut short or damaged"),
    }
    for name, (data, said) in cases.items():
        (tmp_path / name).write_bytes(data)
        assert said in str(refusal(tmp_path / name))
        assert name in str(refusal(tmp_path / name))
    assert "cannot be read: No such file" in str(refusal(tmp_path / "absent.zip"))
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in str(refusal(tmp_path / "pipe"))


def test_an_empty_package_is_an_error(tmp_path: Path) -> None:
    assert errors(zipped(tmp_path / "set.zip", {})) == {("no-pairs", "")}


def test_a_file_that_changes_under_our_hands_is_noticed(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "set", pairs(1, ""))
    with open_dataset(folder) as dataset:
        (folder / "lad_000.png").write_bytes(b"shorter")
        with pytest.raises(DatasetError, match="changed while it was read"):
            dataset.read(dataset.pairs[0].image)
        (folder / "lad_000.png").unlink()
        with pytest.raises(DatasetError, match="cannot be read"):
            dataset.read(dataset.pairs[0].image)


def _read_to_the_end(path: Path) -> None:
    try:
        with open_dataset(path) as dataset:
            assert isinstance(dataset, Dataset)
            check(dataset)
    except DatasetError as exc:
        assert str(exc)


LENIENT = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@LENIENT
@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_package_or_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.zip"
    path.write_bytes(data)
    _read_to_the_end(path)


@LENIENT
@given(data=st.data())
def test_a_zip_with_bytes_changed_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = zipped(tmp_path / "set.zip", pairs(1), method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    _read_to_the_end(path)


@LENIENT
@given(content=st.binary(max_size=300), caption=st.binary(max_size=60))
def test_any_image_and_caption_are_judged(tmp_path: Path, content: bytes, caption: bytes) -> None:
    for magic, suffix in (
        (b"", "png"),
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff", "jpg"),
        (b"BM", "bmp"),
    ):
        path = tmp_path / "set"
        unpacked(path, {f"a.{suffix}": magic + content, "a.txt": caption})
        _read_to_the_end(path)
        (path / f"a.{suffix}").unlink()
