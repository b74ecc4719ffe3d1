"""The table, part one: data sets. Each case writes a package and says what of it must be said.

REFUSED: exit code 3 from `check`, `pack` and `run`, the words in one sentence. HARMLESS: they simply work,
down to the pod, with the words among what `check` prints.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.bad_input.builders import (
    CAPTION,
    animated,
    bzipped,
    end_record,
    folder_of,
    named,
    one,
    pair,
    patched,
    png_header,
    saved,
    turned,
    zipped,
)
from tests.bad_input.raw_zip import ENCRYPTED, SYMLINK, UTF8, Member, raw_zip
from tests.launcher.dataset.packages import image, pairs

NAMED = ("set.zip",)
MANY = 100_001
MANY_MORE = 600_000
"""As many as fit into the longest table of contents that is read; each would cost half a kilobyte."""


@dataclass(frozen=True)
class Package:
    """One kind of data set."""

    id: str
    make: Callable[[Path], bytes | None]
    """Given the path, returns a zip's bytes, or None when it wrote there itself."""
    says: tuple[str, ...]
    images: int = 1
    """Of a harmless one: how many the pod finds."""


SOUND = raw_zip([Member(name.encode(), data) for name, data in pairs(2, "").items()])
DAMAGED_PIXELS = patched(SOUND, b"IDAT", 6, b"\xff\xff\xff\xff")
NOWHERE = patched(SOUND, b"PK\x01\x02", 42, b"\xff\xff\xff\x7f")
BOMB = Member(b"big.png", bytes(2**26), deflated=True)

REFUSED = (
    # The package as a whole.
    Package("not-a-zip", lambda _: b"hello, this is text", (*NAMED, "is not a zip file")),
    Package("empty-file", lambda _: b"", (*NAMED, "is not a zip file")),
    Package("another-archive", lambda _: b"\x1f\x8b\x08" + bytes(60), (*NAMED, "is not a zip file")),
    Package("truncated-zip", lambda _: SOUND[: len(SOUND) // 2], (*NAMED, "cut short or damaged")),
    Package("truncated-by-a-byte", lambda _: SOUND[:-1], (*NAMED, "cut short or damaged")),
    Package(
        "directory-overwritten", lambda _: SOUND.replace(b"PK\x01\x02", b"PK\x09\x09"), (*NAMED, "damaged")
    ),
    Package("encrypted", zipped(Member(b"a.png", image(), flags=ENCRYPTED)), (*NAMED, "is encrypted")),
    Package(
        "bomb-declared",
        zipped(*(Member(b"%d.png" % n, b"", declared=2**28) for n in range(5))),
        (*NAMED, "a zip bomb"),
    ),
    Package(
        "bomb-undeclared",
        zipped(Member(BOMB.name, BOMB.data, deflated=True, declared=100), Member(b"big.txt", CAPTION)),
        (*NAMED, "big.png", "cannot be read"),
    ),
    Package(
        "too-many-entries",
        zipped(*(Member(b"%d.png" % n) for n in range(MANY)), sound=False),
        (*NAMED, "more than 100000 files"),
    ),
    Package(
        "too-many-entries-without-names",
        lambda _: (
            b"PK\x03\x04"
            + bytes(60)
            + b"PK\x01\x02".ljust(46, b"\0") * MANY_MORE
            + end_record(46 * MANY_MORE)
        ),
        (*NAMED, "more than 100000 files"),
    ),
    Package(
        "directory-too-large",
        lambda _: SOUND[:-22] + end_record(2**31),
        (*NAMED, "more than 100000 files"),
    ),
    Package("entry-outside-the-zip", lambda _: NOWHERE, (*NAMED, "lad_001.txt", "cannot be read")),
    Package("a-pipe", lambda path: os.mkfifo(path), (*NAMED, "neither a file nor a folder")),
    Package("empty-zip", zipped(sound=False), (*NAMED, "holds no pair")),
    Package("empty-folder", folder_of({}, lambda path: path.mkdir()), (*NAMED, "holds no pair")),
    Package("zip-in-a-zip", zipped(Member(b"set.zip", SOUND), sound=False), (*NAMED, "holds no pair")),
    # Where entries go, and what they are.
    Package("traversal", zipped(*pair(b"../../evil")), ("../../evil.png", "points out of the package")),
    Package("traversal-backslash", zipped(*pair(b"..\\..\\evil")), ("../../evil.png", "points out of")),
    Package("absolute-path", zipped(*pair(b"/etc/evil")), ("/etc/evil.png", "points out of the package")),
    Package("drive-letter", zipped(*pair(b"C:\\evil")), ("C:/evil.png", "points out of the package")),
    Package("symlink-in-zip", zipped(Member(b"x.png", b"/etc/passwd", SYMLINK)), ("x.png", "symbolic link")),
    Package("device-in-zip", zipped(Member(b"x.png", b"", 0o060644)), ("x.png", "is no regular file")),
    Package(
        "symlink-in-folder",
        folder_of(pairs(1, ""), lambda path: (path / "x.png").symlink_to("/etc/passwd")),
        ("x.png", "symbolic link"),
    ),
    Package(
        "symlinked-folder",
        folder_of(pairs(1, ""), lambda path: (path / "more").symlink_to("/etc")),
        ("more", "symbolic link"),
    ),
    Package(
        "pipe-in-folder",
        folder_of(pairs(1, ""), lambda path: os.mkfifo(path / "x.png")),
        ("x.png", "is no regular file"),
    ),
    Package("control-characters", zipped(*pair(b"a\x1b[2Jb")), ("a\ufffd[2Jb.png", "cannot be shown")),
    Package(
        "folder-name-not-utf8",
        folder_of(pairs(1, ""), lambda path: (path / os.fsdecode(b"caf\xe9.png")).write_bytes(image())),
        ("caf\ufffd.png", "cannot be shown"),
    ),
    Package("case-only", named(b"Lad", b"lad"), ("lad.png", "same name as image Lad.png")),
    Package("same-name-in-two-folders", named(b"one/a", b"two/a"), ("two/a.png", "image one/a.png")),
    Package("same-name-two-suffixes", zipped(Member(b"lad_000.jpg", image())), ("same name as image",)),
    Package(
        "composed-and-decomposed",
        named("\u00e9".encode(), "e\u0301".encode(), flags=UTF8),
        ("same name as image",),
    ),
    Package("name-twice", zipped(*pair(b"lad_000")), ("lad_000.png", "in the zip twice")),
    Package("name-too-long", zipped(*pair(b"n" * 181)), ("n" * 150, "too long a name")),
    Package("unusual-compression", lambda _: bzipped(), ("a.png", "compressed in an unusual way")),
    Package(
        "file-too-large",
        zipped(Member(b"x.png", b"", declared=2**28 + 1)),
        ("x.png", f"has {2**28 + 1} bytes"),
    ),
    Package("wrong-checksum", lambda _: DAMAGED_PIXELS, ("lad_001.png", "cannot be read")),
    # Captions.
    Package("caption-missing", zipped(Member(b"alone.png", image())), ("alone.png", "has no caption")),
    Package("image-missing", zipped(Member(b"alone.txt", CAPTION)), ("alone.txt", "has no image")),
    Package("caption-latin1", one(caption=b"caf\xe9 au lait"), ("a.txt", "is not UTF-8 at byte 3")),
    Package("caption-utf16", one(caption="a face".encode("utf-16")), ("a.txt", "is not UTF-8")),
    Package("caption-empty", one(caption=b""), ("a.txt", "is empty")),
    Package("caption-blank", one(caption=b" \t\r\n\n"), ("a.txt", "is empty")),
    Package("caption-first-line-empty", one(caption=b"\na face"), ("a.txt", "empty first line")),
    Package("caption-too-large", one(caption=b"x" * 70_000), ("a.txt", "has 70000 bytes")),
    Package(
        "caption-is-a-folder-in-a-zip",
        zipped(Member(b"a.png", image()), Member(b"a.txt/", mode=0o040755)),
        ("a.txt", "is a folder"),
    ),
    Package(
        "caption-is-a-folder",
        folder_of({"a.png": image()}, lambda path: (path / "a.txt").mkdir()),
        ("a.txt", "is a folder"),
    ),
    # Images.
    Package("image-is-text", one(b"not an image at all"), ("a.png", "is no image or was cut short")),
    Package("image-of-no-bytes", one(b""), ("a.png", "is no image or was cut short")),
    Package("image-truncated", one(image(side=200)[:-30]), ("a.png", "is no image or was cut short")),
    Package(
        "image-corrupt",
        one(patched(image(side=64), b"IDAT", 8, b"\xff\x00\xff\x00")),
        ("a.png", "is no image or was cut short"),
    ),
    Package("image-of-no-pixels", one(png_header(0, 0)), ("a.png",)),
    Package("image-of-40000-pixels", one(png_header(40_000, 40_000)), ("a.png", "pixels", "scale it")),
    Package("image-40000-wide", one(png_header(40_000, 8)), ("a.png", "40000×8", "scale it")),
    Package("image-too-many-pixels", one(png_header(16_000, 16_000)), ("a.png", "pixels", "scale it")),
    Package("image-gif-inside", one(saved(Image.new("P", (8, 8)), "GIF")), ("a.png", "GIF")),
    Package(
        "image-tiff",
        zipped(Member(b"a.tif", saved(Image.new("RGB", (8, 8)), "TIFF")), Member(b"a.txt", CAPTION)),
        ("a.tif", "format"),
    ),
    Package(
        "image-heic",
        zipped(Member(b"a.HEIC", b"\0\0\0\x18ftypheic"), Member(b"a.txt", CAPTION)),
        ("a.HEIC", "format"),
    ),
)

HARMLESS = (
    Package("macosx", zipped(Member(b"__MACOSX/._lad_000.png", b"\0\5\x16\7")), ("0 errors, 0 warnings",)),
    Package("ds-store", zipped(Member(b"set/.DS_Store", b"Bud1")), ("0 errors, 0 warnings",)),
    Package(
        "thumbs-db", zipped(Member(b"Thumbs.db", b"x"), Member(b"desktop.ini")), ("0 errors, 0 warnings",)
    ),
    Package("foreign-files", zipped(Member(b"readme.md", b"# x")), ("readme.md", "1 note")),
    Package("spaces", named(b"a face", b" b  c "), ("0 errors",), 2),
    Package("quotes", named(b"it's", b'a "face"'), ("0 errors",), 2),
    Package("shell-characters", named(b"$(touch owned);&|`id`", b"*?<>", b"-rf"), ("0 errors",), 3),
    Package("emoji", named("\N{DRAGON FACE}\N{ZERO WIDTH JOINER}".encode(), flags=UTF8), ("0 errors",)),
    Package("zip-names-not-utf8", named(b"caf\xe9"), ("0 errors",)),
    Package("dots-and-dashes", named(b"a.b.c", b"x-y_z.v1"), ("0 errors",), 2),
    Package("deep-folders", named(b"a/" * 60 + b"x"), ("0 errors",)),
    Package(
        "other-suffix-case",
        zipped(Member(b"A.PNG", image(colour=3)), Member(b"a.TXT", CAPTION)),
        ("0 errors",),
        2,
    ),
    Package("caption-crlf", one(caption=b"a face\r\n"), ("0 errors, 0 warnings",)),
    Package("caption-bom", one(caption=b"\xef\xbb\xbfa face"), ("a.txt", "byte order mark")),
    Package("caption-lines", one(caption=b"a face\nanother line"), ("a.txt", "2 lines")),
    Package(
        "captions-alike",
        lambda _: raw_zip([*pair(b"a"), *pair(b"b", image(colour=9))]),
        ("b.txt", "says exactly what"),
        2,
    ),
    Package(
        "images-alike",
        lambda _: raw_zip([*pair(b"a"), *pair(b"b", caption=b"other")]),
        ("b.png", "same file"),
        2,
    ),
    Package("image-animated-png", one(animated("PNG")), ("a.png", "2 frames")),
    Package("image-animated-webp", one(animated("WEBP")), ("a.png", "2 frames")),
    Package("image-cmyk", one(saved(Image.new("CMYK", (8, 8)), "JPEG")), ("a.png", "is CMYK")),
    Package("image-16-bit-grey", one(saved(Image.new("I;16", (8, 8)), "PNG")), ("a.png", "16 bits")),
    Package("image-transparent", one(image(mode="RGBA", colour=(1, 2, 3, 0))), ("a.png", "transparent")),
    Package(
        "image-palette-transparent", one(image(mode="P", colour=0, transparency=0)), ("a.png", "transparent")
    ),
    Package("image-rotated", one(turned()), ("a.png", "EXIF")),
    Package("image-misnamed", one(saved(Image.new("RGB", (8, 8)), "JPEG")), ("a.png", "JPEG inside")),
    Package("image-of-one-pixel", one(image(side=1)), ("0 errors",)),
)
