"""Makes packages that are wrong in one thing: zips, folders, pictures."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.bad_input.raw_zip import Member, raw_zip
from tests.launcher.dataset.packages import image, pairs, unpacked

CAPTION = b"drawn, portrait of a test, blue background"


def zipped(*extra: Member, sound: bool = True) -> Callable[[Path], bytes]:
    """Return the maker of a zip of these members, beside a sound pair."""
    good = [Member(name.encode(), data) for name, data in pairs(1, "").items()] if sound else []
    return lambda _: raw_zip([*good, *extra])


def pair(
    name: bytes = b"a", picture: bytes | None = None, caption: bytes = CAPTION, flags: int = 0
) -> list[Member]:
    """Return an image and its caption."""
    data = image(colour=5) if picture is None else picture
    return [Member(name + b".png", data, flags=flags), Member(name + b".txt", caption, flags=flags)]


def one(picture: bytes | None = None, caption: bytes = CAPTION) -> Callable[[Path], bytes]:
    """Return the maker of a zip of one pair, a.png and a.txt."""
    return lambda _: raw_zip(pair(b"a", picture, caption))


def named(*names: bytes, flags: int = 0) -> Callable[[Path], bytes]:
    """Return the maker of a zip of pairs of these names, every image another."""
    return lambda _: raw_zip(
        member
        for number, name in enumerate(names)
        for member in pair(name, image(colour=number + 1), CAPTION + b", %d" % number, flags)
    )


def folder_of(
    files: dict[str, bytes], then: Callable[[Path], object] = lambda _: None
) -> Callable[[Path], None]:
    """Return the maker of a folder, to which something is done afterwards."""

    def make(path: Path) -> None:
        unpacked(path, files)
        then(path)

    return make


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that says how large it is and holds next to nothing."""
    ihdr = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", ihdr)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def end_record(directory: int) -> bytes:
    """Return a zip's last record, with the length of a table of contents."""
    return struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 9, 9, directory, 64, 0)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return a picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    """Return a picture of two frames."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def turned() -> bytes:
    """Return a JPEG that EXIF asks to turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.new("RGB", (8, 8)), "JPEG", exif=exif)


def bzipped() -> bytes:
    """Return a zip of a method that cannot be unpacked in bounded memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", image())
        archive.writestr("a.txt", CAPTION)
    return buffer.getvalue()


def patched(whole: bytes, marker: bytes, offset: int, value: bytes) -> bytes:
    """Return bytes with some behind the last marker replaced."""
    at = whole.rindex(marker) + offset
    return whole[:at] + value + whole[at + len(value) :]
