"""Packs a data set for the pod: the same pairs always become the same bytes.

Knows zip files and data sets. Images and captions go in unchanged, flat, under their stems.
"""

import hashlib
import secrets
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from launcher.dataset.reading import Dataset
from launcher.errors import RetrainError

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can tell."""
_UNIX = 3
_MODE = 0o100644


@dataclass(frozen=True)
class PackedDataset:
    """A zip that is ready to be uploaded."""

    path: Path
    sha256: str
    bytes: int
    images: int


def pack(dataset: Dataset, path: Path) -> PackedDataset:
    """Write the pairs of `dataset` to `path` as a zip; nothing else is taken along.

    Whether the pairs are fit to be trained is for `checks` to say. Raises DatasetError when a file cannot
    be read after all, RetrainError when the disk refuses; then `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with zipfile.ZipFile(temporary, "x") as archive:
                for pair in dataset.pairs:
                    suffix = PurePosixPath(pair.image.name).suffix.lower()
                    archive.writestr(_member(pair.stem + suffix), dataset.read(pair.image))
                    suffix = PurePosixPath(pair.caption_file.name).suffix.lower()
                    archive.writestr(_member(pair.stem + suffix), dataset.read(pair.caption_file))
            with temporary.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = temporary.stat().st_size
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise RetrainError(
            f"{path} cannot be written: {exc.strerror or type(exc).__name__}",
            next_step="check that its folder exists and has space",
        ) from exc
    return PackedDataset(path, digest, size, len(dataset.pairs))


def _member(name: str) -> zipfile.ZipInfo:
    """Return an entry that says nothing of when and where it was made. Stored: images do not shrink."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = _UNIX
    info.external_attr = _MODE << 16
    return info
