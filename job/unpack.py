"""Archives from outside become files below one folder, or are refused by name. Knows zip, tar and kohya's
layout.

Nothing in an archive is believed: where its entries go, what they are, how large they become.
"""

import errno
import lzma
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from job.contract.reasons import Reason
from job.errors import JobError
from job.files import CHUNK, human

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
ENTRIES_MAX = 100_000
RATIO_MAX = 200
"""Decompressed to compressed bytes of a whole archive. Images and weights stay far below; deflate reaches
1032.
"""
RATIO_FREE_BYTES = 64 << 20
"""Archives that become no larger than this are harmless at any ratio."""
NAME_BYTES_MAX = 200
PATH_BYTES_MAX = 1000
"""Of a whole path inside the archive: with the folder before it, below what any disk takes."""
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, NotImplementedError,
    ValueError, OverflowError, OSError,
)  # fmt: skip
"""What zipfile raises on bytes that are no proper zip; OSError also for the disk."""
_DAMAGED_TAR = (
    tarfile.TarError, struct.error, EOFError, ValueError, OverflowError, FileExistsError,
    NotADirectoryError, IsADirectoryError,
)  # fmt: skip
_SHOWN = 5


@dataclass(frozen=True)
class Entry:
    """A regular file of an archive, its path checked to stay below the folder it is unpacked to."""

    info: zipfile.ZipInfo
    path: PurePosixPath


class Zip:
    """A zip whose entries were checked. `reason` and `noun` say whose fault it is and what it is called."""

    def __init__(self, path: Path, *, reason: Reason, noun: str) -> None:
        self.reason = reason
        self.noun = noun
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGED:
            raise self.refusal("is no readable zip file") from None
        self.entries = tuple(self._checked(self._zip.infolist()))
        self.bytes = sum(entry.info.file_size for entry in self.entries)
        if self.bytes > max(RATIO_FREE_BYTES, RATIO_MAX * max(1, path.stat().st_size)):
            raise self.refusal(f"would become {human(self.bytes)}, more than {RATIO_MAX} times its size")

    def refusal(self, sentence: str) -> JobError:
        """Return the error that refuses this archive."""
        return JobError(self.reason, f"{self.noun} {sentence}")

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def write(self, entry: Entry, target: Path) -> None:
        """Unpack one entry to `target`, stopping where it grows beyond its declared size."""
        left = entry.info.file_size
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._zip.open(entry.info) as source, target.open("xb") as out:
                while chunk := source.read(CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise self.refusal(f"holds {entry.path}, which is larger than it says")
                    out.write(chunk)
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # the disk's trouble; EINVAL is an offset in the archive that points nowhere
            raise self.refusal(f"holds {entry.path}, which is damaged") from None
        if left:
            raise self.refusal(f"holds {entry.path}, which is smaller than it says")

    def _checked(self, infos: list[zipfile.ZipInfo]) -> Iterable[Entry]:
        if len(infos) > ENTRIES_MAX:
            raise self.refusal(f"has {len(infos)} entries; {ENTRIES_MAX} is the limit")
        for info in infos:
            path = self._safe_path(info.orig_filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise self.refusal(f"holds {path}, which is a link or a device")
            if info.flag_bits & 0x1:
                raise self.refusal(f"holds {path}, which is encrypted")
            if not path.parts or info.is_dir() or kind == stat.S_IFDIR or is_litter(path):
                continue
            yield Entry(info, path)

    def _safe_path(self, name: str) -> PurePosixPath:
        shown = repr(name[:100])
        path = PurePosixPath(name.replace("\\", "/"))
        if "\0" in name or any(unicodedata.category(character) == "Cc" for character in name):
            raise self.refusal(f"holds {shown}, a name with control characters")
        if path.is_absolute() or any(":" in part for part in path.parts[:1]):
            raise self.refusal(f"holds {shown}, an absolute path")
        if ".." in path.parts:
            raise self.refusal(f"holds {shown}, which leads out of the folder")
        long = len(str(path).encode("utf-8", "replace")) > PATH_BYTES_MAX
        if long or any(len(part.encode("utf-8", "replace")) > NAME_BYTES_MAX for part in path.parts):
            raise self.refusal(f"holds {shown}, a name that is too long")
        return path


def is_litter(path: PurePosixPath) -> bool:
    """Whether a path is what operating systems leave in archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts) or path.name.lower() in (
        "thumbs.db",
        "desktop.ini",
    )


def unpack_dataset(archive: Zip, data_dir: Path, *, repeat_count: int, caption_extension: str) -> int:
    """Unpack captioned images, wherever they lie in the zip, to `data_dir/NN_subset`; return how many images.

    NN is how often kohya shows each image in an epoch. Raises JobError(BAD_DATASET).
    """
    images = [e for e in archive.entries if e.path.suffix.lower() in IMAGE_SUFFIXES]
    captions = [e for e in archive.entries if e.path.suffix.lower() == caption_extension.lower()]
    if not images:
        raise archive.refusal("holds no images (png, jpg, webp or bmp)")
    _refuse_collisions(archive, images)
    described = {caption.path.with_suffix(""): caption for caption in captions}
    pictured = {image.path.with_suffix("") for image in images}
    if bare := [image.path for image in images if image.path.with_suffix("") not in described]:
        raise archive.refusal(f"has {_few(bare, 'image')} without a {caption_extension} caption beside it")
    if idle := [caption.path for caption in captions if caption.path.with_suffix("") not in pictured]:
        raise archive.refusal(f"has {_few(idle, 'caption')} without an image beside it")
    subset = data_dir / f"{repeat_count}_subset"
    subset.mkdir(parents=True)
    for image in images:
        archive.write(image, subset / image.path.name)
        archive.write(described[image.path.with_suffix("")], subset / (image.path.stem + caption_extension))
    return len(images)


def unpack_tree(archive: Zip, folder: Path) -> None:
    """Unpack everything below `folder`, keeping the archive's folders."""
    seen: dict[str, PurePosixPath] = {}
    for entry in archive.entries:
        other = seen.setdefault(_folded(str(entry.path)), entry.path)
        if other is not entry.path:
            raise archive.refusal(f"holds both {other} and {entry.path}, which some disks cannot tell apart")
    try:
        for entry in archive.entries:
            archive.write(entry, folder / entry.path)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise archive.refusal("holds a file and a folder of the same name") from None


def unpack_tar(path: Path, folder: Path) -> None:
    """Unpack a tar that this job wrote: regular files and folders below `folder` alone. Raises
    JobError(BAD_INPUT).
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not (member.isreg() or member.isdir()):
                    raise JobError(
                        Reason.BAD_INPUT, f"the resume state holds {member.name!r}, a link or a device"
                    )
                _write_member(archive, member, folder)
    except _DAMAGED_TAR:
        raise JobError(Reason.BAD_INPUT, "the resume state is no safe tar file") from None


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one file or folder; neither owner, mode nor time of the archive's is taken over.

    By hand: tarfile's own filter came with Python 3.11.4, and systems in use have earlier ones.
    """
    target = folder / member.name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise JobError(
            Reason.BAD_INPUT, f"the resume state holds {member.name!r}, a path that leads out of it"
        )
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = archive.extractfile(member)
    assert content is not None  # a regular file has content
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file)


def _refuse_collisions(archive: Zip, images: list[Entry]) -> None:
    """Flattened into one folder, images that share a stem would share a caption and a latent cache."""
    seen: dict[str, PurePosixPath] = {}
    for image in images:
        other = seen.setdefault(_folded(image.path.stem), image.path)
        if other is not image.path:
            raise archive.refusal(
                f"holds both {other} and {image.path}: image names must differ in more than case"
            )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _few(paths: list[PurePosixPath], noun: str) -> str:
    shown = ", ".join(str(path) for path in paths[:_SHOWN])
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{len(paths)} {noun}{'s' if len(paths) > 1 else ''} ({shown}{more})"
