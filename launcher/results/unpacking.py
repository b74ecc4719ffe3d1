"""Images out of a pod's zip. What the zip says of itself is believed in nothing.

Knows zip files and the local disk; which names are wanted it is told.
"""

import errno
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from launcher.errors import IntegrityError
from launcher.machine.files import disk_errors, write_atomically

ENTRY_BYTES_MAX = 64 * 1024**2
"""No sample image is larger once unpacked."""
TOTAL_BYTES_MAX = 4 * 1024**3
"""Of all images of one zip."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What zipfile raises for content that is no sound zip: damaged, cut off, encrypted, of a newer format."""


def unpack(archive: Path, folder: Path, wanted: Collection[str]) -> None:
    """Lay the entries of the wanted names into `folder`; of several of one name the first counts.

    Raises IntegrityError when the zip is damaged or too large, LocalDiskError when there is no room.
    """
    with disk_errors(f"{archive.name} cannot be unpacked to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in _read(archive, wanted):
            write_atomically(folder / name, data)


def _read(archive: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            first: dict[str, zipfile.ZipInfo] = {}
            for entry in opened.infolist():
                if entry.filename in wanted:
                    first.setdefault(entry.filename, entry)
            _check(first.values(), archive.name)
            for name, entry in first.items():
                yield name, opened.read(entry)
    except _DAMAGED as error:
        raise _refusal(archive.name, f"{type(error).__name__}, {error}") from error
    except OSError as error:
        # An offset that points nowhere; every other number is the disk's.
        if error.errno != errno.EINVAL:
            raise
        raise _refusal(archive.name, "it points outside itself") from error


def _check(entries: Collection[zipfile.ZipInfo], archive: str) -> None:
    # zipfile never unpacks more than an entry declares, so what is declared is a limit.
    if any(entry.compress_type not in _METHODS for entry in entries):
        raise _refusal(archive, "it is compressed in a way that no job of ours uses")
    if any(entry.file_size > ENTRY_BYTES_MAX for entry in entries):
        raise _refusal(archive, f"it holds a file of more than {ENTRY_BYTES_MAX >> 20} MiB")
    if sum(entry.file_size for entry in entries) > TOTAL_BYTES_MAX:
        raise _refusal(archive, f"it holds more than {TOTAL_BYTES_MAX >> 20} MiB")


def _refusal(archive: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"{archive} cannot be unpacked: {why}.", next_step="It came as the pod sent it; nothing else is lost."
    )
