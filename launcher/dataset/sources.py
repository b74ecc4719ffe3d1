"""Where files come from: a zip or a folder, listed and read without trusting either.

Knows zip files and the file system; nothing of images and captions. Nothing is unpacked to disk, so that a
hostile name has nowhere to go; names are judged all the same, because they tell of a package to distrust.
"""

import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from launcher.dataset.findings import Finding, error
from launcher.dataset.zip_directory import has_too_many
from launcher.errors import DatasetError

ENTRIES_MAX = 100_000
ENTRY_BYTES_MAX = 256 * 2**20
"""Of one file, unpacked: also the most that reading one holds in memory."""
BOMB_BYTES = 2**30
BOMB_RATIO = 100
"""A package that unpacks to more than BOMB_BYTES and to this many times its size is no package of images."""
_CHUNK = 2**20

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others cannot be unpacked in bounded memory by the standard library."""
_CLUTTER = {"__macosx", "thumbs.db", "desktop.ini"}
_ENCRYPTED = 0x1
_BROKEN_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, NotImplementedError, RuntimeError,
    ValueError, OverflowError,
)  # fmt: skip
"""What zipfile raises on bytes that are no proper zip."""


@dataclass(frozen=True)
class Entry:
    """A regular file of the package."""

    path: str
    """Inside the package, with `/`."""
    bytes: int
    """Unpacked, as declared; reading more or less than that is an error."""

    @property
    def name(self) -> str:
        """The path's last part."""
        return PurePosixPath(self.path).name


class Source(Protocol):
    """An open package."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every file that may be read, in order of path."""
        ...

    @property
    def folders(self) -> tuple[str, ...]:
        """The paths of folders, as far as the package lists them."""
        ...

    @property
    def refused(self) -> tuple[Finding, ...]:
        """Every file that may not."""
        ...

    def read(self, entry: Entry) -> bytes:
        """Return a file's content. Raises DatasetError when it is not what was declared."""
        ...


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a zip or a folder. Raises DatasetError for what is neither, or is dangerous as a whole."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise DatasetError(f"{path} is neither a file nor a folder", next_step="give a zip or a folder")
        file = None if stat.S_ISDIR(mode) else path.open("rb")
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    if file is None:
        yield _Folder(path)
        return
    with file:
        yield _Zip(path, file)


def is_clutter(name: str) -> bool:
    """Whether it is hidden, or something that macOS or Windows leave behind."""
    return any(part.startswith(".") or part.lower() in _CLUTTER for part in name.split("/"))


def shown(name: str) -> str:
    """Return a name from outside so that it is safe to print."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_control(char) else char for char in name)[:200]


class _Zip:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        size = os.fstat(file.fileno()).st_size
        signature = file.read(4)
        try:
            if has_too_many(file, size, ENTRIES_MAX):
                raise _too_many(path)
            self._zip = zipfile.ZipFile(file)
        except _BROKEN_ZIP as exc:
            if signature == b"PK\x03\x04":
                raise DatasetError(
                    f"{path} is a zip that was cut short or damaged",
                    next_step="copy it again and compare its size with the original",
                ) from exc
            raise DatasetError(
                f"{path} is not a zip file", next_step="give a zip or a folder of images and captions"
            ) from exc
        infos = self._zip.infolist()
        if len(infos) > ENTRIES_MAX:
            raise _too_many(path)
        if any(info.flag_bits & _ENCRYPTED for info in infos):
            raise DatasetError(f"{path} is encrypted", next_step="zip the files again without a password")
        total = sum(info.file_size for info in infos)
        if total > BOMB_BYTES and total > BOMB_RATIO * size:
            raise DatasetError(
                f"{path} says that its {size} bytes unpack to {total}: a zip bomb",
                next_step="zip only images and captions",
            )
        self._infos: dict[str, zipfile.ZipInfo] = {}
        refused: list[Finding] = []
        folders: list[str] = []
        for info in infos:
            name = info.filename.replace("\\", "/")
            problem = _judge(name, info.external_attr >> 16, info.file_size) or self._problem(info, name)
            if problem is not None:
                refused.append(problem)
            elif is_clutter(name):
                continue
            elif name.endswith("/"):
                folders.append(name.rstrip("/"))
            else:
                self._infos[name] = info
        self.entries = tuple(Entry(name, self._infos[name].file_size) for name in sorted(self._infos))
        self.folders = tuple(folders)
        self.refused = tuple(refused)

    def _problem(self, info: zipfile.ZipInfo, name: str) -> Finding | None:
        if info.compress_type not in _METHODS:
            return error("zip-method", name, "is compressed in an unusual way", "zip it as stored or deflate")
        if name in self._infos:
            return error("name-twice", name, "is in the zip twice", "keep one of the two")
        return None

    def read(self, entry: Entry) -> bytes:
        try:
            # In pieces: a deflate stream may be longer than declared, and a bounded read bounds its memory.
            with self._zip.open(self._infos[entry.path]) as file:
                data = bytearray()
                while piece := file.read(_CHUNK):
                    data += piece
        except _BROKEN_ZIP as exc:
            raise _damaged(entry) from exc
        if len(data) != entry.bytes:
            raise _damaged(entry)
        return bytes(data)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        entries: list[Entry] = []
        refused: list[Finding] = []
        folders: list[str] = []
        for file in _files(path):
            name = file.relative_to(path).as_posix()
            status = file.lstat()
            problem = _judge(name, status.st_mode, status.st_size)
            if problem is not None:
                refused.append(problem)
            elif stat.S_ISDIR(status.st_mode):
                folders.append(name)
            else:
                entries.append(Entry(name, status.st_size))
            if len(entries) + len(refused) + len(folders) > ENTRIES_MAX:
                raise _too_many(path)
        self.entries = tuple(sorted(entries, key=lambda entry: entry.path))
        self.folders = tuple(sorted(folders))
        self.refused = tuple(refused)

    def read(self, entry: Entry) -> bytes:
        try:
            with (self._path / entry.path).open("rb") as file:
                data = file.read(entry.bytes + 1)
        except OSError as exc:
            raise DatasetError(
                f"{entry.path} cannot be read: {exc.strerror}", next_step="check that it may be read"
            ) from exc
        if len(data) != entry.bytes:
            raise DatasetError(
                f"{entry.path} changed while it was read", next_step="try again when it is still"
            )
        return data


def _files(folder: Path) -> Iterator[Path]:
    """Yield what is below a folder, folders among it, links not followed, clutter left out."""

    def refuse(exc: OSError) -> None:
        raise _unreadable(Path(exc.filename), exc) from exc

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_clutter(name)]
        for name in sorted([*files, *folders]):
            if not is_clutter(name):
                yield Path(parent) / name


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs")


def _judge(name: str, mode: int, size: int) -> Finding | None:
    """Say why an entry of this name, Unix mode (0 where none is known) and size is not read."""
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        return error("unsafe-path", shown(name), "points out of the package", "zip the folder from inside it")
    if not name or any(_is_control(char) for char in name):
        return error(
            "unsafe-name", shown(name), "has characters in its name that cannot be shown", "rename it"
        )
    if is_clutter(name):
        return None
    if stat.S_ISLNK(mode):
        return error("symlink", name, "is a symbolic link", "put the file itself there")
    if stat.S_IFMT(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return error("special-file", name, "is no regular file", "remove it")
    if size > ENTRY_BYTES_MAX:
        return error("file-too-large", name, f"has {size} bytes", f"keep files below {ENTRY_BYTES_MAX} bytes")
    return None


def _damaged(entry: Entry) -> DatasetError:
    return DatasetError(f"{entry.path} is damaged in the zip", next_step="zip the original again")


def _too_many(path: Path) -> DatasetError:
    return DatasetError(
        f"{path} has more than {ENTRIES_MAX} files", next_step="give the folder of the training images alone"
    )


def _unreadable(path: Path, exc: OSError) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read: {exc.strerror or type(exc).__name__}",
        next_step="check the path of the data set",
    )
