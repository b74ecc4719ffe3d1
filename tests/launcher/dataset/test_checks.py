"""Findings about images and captions that can be read."""

import ast
import io
import re
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from launcher.dataset import checks, images
from launcher.dataset.checks import check, common_prefix, require_sound
from launcher.dataset.findings import Finding, Severity
from launcher.dataset.reading import open_dataset
from launcher.errors import DatasetError
from tests.launcher.dataset.packages import CAPTION, image, pairs, unpacked, zipped

REAL = Path(__file__).parents[4] / "shared" / "data"


def findings(path: Path) -> tuple[Finding, ...]:
    with open_dataset(path) as dataset:
        return check(dataset)


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(3)]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return image(kind="JPEG", exif=exif)


def deep() -> bytes:
    """Return a colour PNG of 16 bits a channel, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    header = struct.pack(">LLBBBBB", 4, 4, 16, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(4 * 6)) * 4)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("x.png", image(mode="RGBA", colour=(9, 9, 9, 0)), "image-transparent"),
        ("x.webp", animated(), "image-animated"),
        ("x.jpg", image(mode="CMYK", kind="JPEG", colour=0), "image-cmyk"),
        ("x.png", deep(), "image-16-bit"),
        ("x.png", image(mode="I;16", colour=5), "image-16-bit"),
        ("x.jpg", rotated(), "image-rotated"),
        ("x.png", image(kind="JPEG"), "image-suffix"),
    ],
)
def test_doubtful_images_are_warned_of(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    files = pairs() | {name: content, "x.txt": f"{CAPTION}, something else".encode()}
    (found,) = findings(zipped(tmp_path / "set.zip", files))
    assert (found.code, found.severity, found.file) == (code, Severity.WARNING, name)
    assert found.seen
    assert found.advice


def test_an_opaque_alpha_channel_is_no_matter(tmp_path: Path) -> None:
    files = pairs() | {"x.png": image(mode="RGBA", colour=(9, 9, 9, 255)), "x.txt": b"drawn, portrait of x"}
    assert findings(zipped(tmp_path / "set.zip", files)) == ()


@pytest.mark.parametrize(("side", "pixels"), [(20, 2**26), (2**14, 100)])
def test_images_beyond_the_limits_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, pixels: int
) -> None:
    monkeypatch.setattr(images, "SIDE_MAX", side)
    monkeypatch.setattr(images, "PIXELS_MAX", pixels)
    found = findings(zipped(tmp_path / "set.zip", pairs(1)))
    assert [f.code for f in found] == ["image-too-large"]
    assert "24×24" in found[0].seen


def test_a_picture_bomb_is_not_decoded(tmp_path: Path) -> None:
    bomb = bytearray(image())
    struct.pack_into(">LL", bomb, 16, 60_000, 60_000)
    struct.pack_into(">L", bomb, 29, zlib.crc32(bomb[12:29]))
    files = pairs() | {"x.png": bytes(bomb), "x.txt": b"drawn, portrait of x"}
    (found,) = findings(zipped(tmp_path / "set.zip", files))
    assert found.code == "image-too-large"


def test_duplicates_are_warned_of(tmp_path: Path) -> None:
    files = pairs() | {"x.png": pairs()["data/set/lad_001.png"], "x.txt": pairs()["data/set/lad_002.txt"]}
    found = {(f.code, f.file) for f in findings(zipped(tmp_path / "set.zip", files))}
    # Pairs go by stem, so that the one called x is the later one.
    assert found == {("image-duplicate", "x.png"), ("caption-duplicate", "x.txt")}


def test_captions_of_another_kind_are_warned_of(tmp_path: Path) -> None:
    files = pairs(9) | {
        "x.png": image(colour=99),
        "x.txt": b"a punk, drawn\nsecond line\n\n",
        "x.md": b"notes",
    }
    found = [(f.severity, f.code, f.file) for f in findings(unpacked(tmp_path / "set", files))]
    assert found == [
        (Severity.WARNING, "caption-lines", "x.txt"),
        (Severity.WARNING, "caption-prefix", "x.txt"),
        (Severity.NOTE, "foreign-file", "x.md"),
    ]


@pytest.mark.parametrize(
    ("captions", "prefix"),
    [
        (["a, b, c"] * 5 + ["a, b, d"] * 5, ("a", "b")),
        (["a, b"] * 4, ()),
        (["a, b"] * 8 + ["x"] * 2, ("a", "b")),
        (["a, b"] * 7 + ["x"] * 3, ()),
        ([], ()),
    ],
)
def test_the_common_prefix_is_what_most_captions_start_with(
    captions: list[str], prefix: tuple[str, ...]
) -> None:
    assert common_prefix(captions) == prefix


def test_only_errors_refuse_a_data_set(tmp_path: Path) -> None:
    with open_dataset(
        zipped(tmp_path / "set.zip", pairs(1) | {"x.png": image(), "y.png": image()})
    ) as dataset:
        found = check(dataset)
        require_sound(dataset, [f for f in found if f.severity is not Severity.ERROR])
        with pytest.raises(DatasetError, match=r"set\.zip: x\.png has no caption$"):
            require_sound(dataset, [f for f in found if f.file == "x.png"])
        with pytest.raises(DatasetError, match=r"x\.png has no caption, and 1 more") as caught:
            require_sound(dataset, found)
    assert "retrain check" in caught.value.next_step
    with (
        open_dataset(zipped(tmp_path / "none.zip", {})) as dataset,
        pytest.raises(DatasetError, match=r"none\.zip holds no pair"),
    ):
        require_sound(dataset, check(dataset))


def test_every_check_is_listed() -> None:
    listed = {function.__name__ for function in (*checks.IMAGE_CHECKS, *checks.DATASET_CHECKS)}
    written = {
        name
        for name, value in vars(checks).items()
        if name.startswith("_") and getattr(value, "__module__", "") == checks.__name__ and callable(value)
    }
    assert listed == written


@pytest.mark.skipif(not REAL.is_dir(), reason="the real package is not part of the repository")
@pytest.mark.parametrize("name", ["training_data.zip", "training_data_IMPROVED.zip"])
def test_the_real_package_is_sound(name: str) -> None:
    with open_dataset(REAL / name) as dataset:
        assert len(dataset.pairs) == 203
        found = check(dataset)
        require_sound(dataset, found)
    assert {f.code for f in found} == {"caption-duplicate"}


def test_the_manual_names_every_code() -> None:
    sources = Path(checks.__file__).parent.glob("*.py")
    said = {
        (call.args[0].value, call.func.id)
        for source in sources
        for call in ast.walk(ast.parse(source.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        if call.func.id in tuple(Severity) and isinstance(call.args[0], ast.Constant)
    }
    manual = (Path(__file__).parents[3] / "docs" / "dataset.md").read_text()
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \|", manual, re.MULTILINE)) == said
