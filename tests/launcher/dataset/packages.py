"""Packages of images and captions that tests draw themselves."""

import io
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

CAPTION = "drawn, portrait of a test, blue background"


def image(*, side: int = 24, mode: str = "RGB", colour: Any = 7, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image file of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, (side, side), colour).save(buffer, kind, **options)
    return buffer.getvalue()


def pairs(count: int = 3, folder: str = "data/set/") -> dict[str, bytes]:
    """Return the files of a sound package."""
    files: dict[str, bytes] = {}
    for number in range(count):
        files[f"{folder}lad_{number:03}.png"] = image(colour=(number, 0, 0))
        files[f"{folder}lad_{number:03}.txt"] = f"{CAPTION}, number {number}".encode()
    return files


def zipped(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write the files as a zip."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the files as a folder."""
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder
