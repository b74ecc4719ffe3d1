"""Files on this disk: hashing, whole writes, room. Knows the standard library only."""

import base64
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20


@dataclass(frozen=True)
class Digest:
    """What identifies a file's content."""

    bytes: int
    sha256: str
    content_md5: str
    """Base64, as the Content-MD5 header wants it: lets the store refuse what was damaged on the way."""


def digest(path: Path) -> Digest:
    """Read a file once and return its digests."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return Digest(size, sha256.hexdigest(), base64.b64encode(md5.digest()).decode())


def content_md5(data: bytes) -> str:
    """Return the Content-MD5 header's value for `data`."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def fresh_folder(path: Path) -> Path:
    """Return `path` as an empty folder, whatever was there before."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def free_bytes(folder: Path) -> int:
    """Return how many bytes can still be written below `folder`."""
    return shutil.disk_usage(folder).free


def human(size: int) -> str:
    """Return a size for people, in decimal units."""
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
