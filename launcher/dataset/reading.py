"""A package of images and captions as pairs, whatever folders they lie in.

Knows sources and how trainers pair files; decodes no image. Captions are held (64 MiB at most), images are
read one at a time on demand.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from launcher.dataset.findings import Finding, error
from launcher.dataset.sources import Entry, Source, open_source
from launcher.errors import DatasetError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
"""What both trainers open."""
OTHER_PICTURES = frozenset({".avif", ".gif", ".heic", ".heif", ".jxl", ".psd", ".svg", ".tif", ".tiff"})
"""What people take for an image of a data set, and no trainer opens."""
CAPTION_BYTES_MAX = 64 * 2**10
CAPTIONS_BYTES_MAX = 64 * 2**20
STEM_BYTES_MAX = 180
"""The pod takes names of up to 200 bytes; a suffix must fit, and what trainers add."""
_MARK = "\ufeff"


@dataclass(frozen=True)
class Pair:
    """An image and what it shows."""

    stem: str
    """The name without folders and suffix, fit to be a file name anywhere."""
    image: Entry
    caption_file: Entry
    caption: str
    """Its first line, which is what trainers read."""
    caption_lines: int
    """Lines that are not blank."""
    caption_marked: bool
    """Whether the file starts with a byte order mark, which trainers take for text."""


@dataclass(frozen=True)
class Dataset:
    """An open package. Structural faults are in `findings`; pairs are sound but for their pixels."""

    path: Path
    pairs: tuple[Pair, ...]
    """In order of stem."""
    images_without_caption: tuple[str, ...]
    captions_without_image: tuple[str, ...]
    foreign: tuple[str, ...]
    """Files that are neither image nor caption."""
    findings: tuple[Finding, ...]
    _source: Source = field(repr=False, compare=False)

    @property
    def image_bytes(self) -> int:
        """Size of all paired images together."""
        return sum(pair.image.bytes for pair in self.pairs)

    def read(self, entry: Entry) -> bytes:
        """Return a file's bytes, unchanged. Raises DatasetError when the package is damaged there."""
        return self._source.read(entry)


@contextmanager
def open_dataset(path: Path, *, caption_extension: str = ".txt") -> Iterator[Dataset]:
    """Open a zip or folder as a data set for as long as the context lasts.

    Raises DatasetError when the package as a whole cannot be read; everything smaller is a finding.
    """
    with open_source(path) as source:
        yield _pair_up(path, source, caption_extension.lower())


def name_key(stem: str) -> str:
    """Return what two stems have in common when some file system cannot tell them apart."""
    return unicodedata.normalize("NFC", stem.casefold())


def _pair_up(path: Path, source: Source, caption_extension: str) -> Dataset:
    images: dict[str, list[Entry]] = defaultdict(list)
    captions: dict[str, list[Entry]] = defaultdict(list)
    foreign: list[str] = []
    for entry in source.entries:
        name = PurePosixPath(entry.name)
        suffix = name.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            images[name_key(_safe(name.stem))].append(entry)
        elif suffix == caption_extension:
            captions[name_key(_safe(name.stem))].append(entry)
        else:
            foreign.append(entry.path)
    findings = list(source.refused)
    findings += _collisions(images.values(), "image")
    findings += _collisions(captions.values(), "caption")
    mistaken = _mistaken(source, foreign, caption_extension)
    bare = [key for key in sorted(images.keys() - captions.keys()) if key not in mistaken]
    idle = [key for key in sorted(captions.keys() - images.keys()) if key not in mistaken]
    taken = [mistaken[key] for key in sorted((images.keys() ^ captions.keys()) & mistaken.keys())]
    findings += taken
    pairs: list[Pair] = []
    held = 0
    for key in sorted(images.keys() & captions.keys()):
        if len(images[key]) > 1 or len(captions[key]) > 1:
            continue
        pair = _pair(source, images[key][0], captions[key][0])
        if isinstance(pair, Finding):
            findings.append(pair)
            continue
        pairs.append(pair)
        held += pair.caption_file.bytes
        if held > CAPTIONS_BYTES_MAX:
            raise DatasetError(
                f"{path} has more than {CAPTIONS_BYTES_MAX} bytes of captions",
                next_step="check that its text files are captions",
            )
    return Dataset(
        path=path,
        pairs=tuple(pairs),
        images_without_caption=tuple(e.path for key in bare for e in images[key]),
        captions_without_image=tuple(e.path for key in idle for e in captions[key]),
        foreign=tuple(path for path in foreign if path not in {finding.file for finding in taken}),
        findings=tuple(findings),
        _source=source,
    )


def _mistaken(source: Source, foreign: Iterable[str], caption_extension: str) -> dict[str, Finding]:
    """Return, by name, what was meant for the missing half of a pair and cannot be it."""
    found: dict[str, Finding] = {}
    for path in foreign:
        name = PurePosixPath(path)
        if name.suffix.lower() in OTHER_PICTURES:
            seen = "is of a format that trainers do not read"
            found[name_key(_safe(name.stem))] = error("image-format", path, seen, "export it as PNG")
    for path in source.folders:
        name = PurePosixPath(path)
        if name.suffix.lower() in IMAGE_SUFFIXES | {caption_extension}:
            seen = "is a folder where a file is expected"
            found[name_key(_safe(name.stem))] = error(
                "folder-for-file", path, seen, "put the file of this name in its place"
            )
    return found


def _pair(source: Source, image: Entry, caption: Entry) -> Pair | Finding:
    stem = _safe(PurePosixPath(image.name).stem)
    if len(stem.encode()) > STEM_BYTES_MAX:
        return error(
            "name-too-long", image.path, "has too long a name", f"keep names below {STEM_BYTES_MAX} bytes"
        )
    if caption.bytes > CAPTION_BYTES_MAX:
        return error(
            "caption-too-large", caption.path, f"has {caption.bytes} bytes", "keep to what fits a prompt"
        )
    try:
        text = source.read(caption).decode()
    except DatasetError as exc:
        return error("file-damaged", caption.path, "cannot be read", exc.next_step)
    except UnicodeDecodeError as exc:
        return error(
            "caption-not-utf8", caption.path, f"is not UTF-8 at byte {exc.start}", "save it as UTF-8"
        )
    marked = text.startswith(_MARK)
    text = text.removeprefix(_MARK)
    lines = text.splitlines()
    if not lines or not lines[0].strip():
        seen = "is empty" if not text.strip() else "has an empty first line, the only one that is trained"
        return error("caption-empty", caption.path, seen, "write what the image shows, in one line")
    return Pair(stem, image, caption, lines[0].strip(), sum(1 for line in lines if line.strip()), marked)


def _collisions(groups: Iterable[list[Entry]], what: str) -> list[Finding]:
    return [
        error(
            "name-collision",
            other.path,
            f"has the same name as {what} {group[0].path} once folders, case and suffix are left out",
            "rename one of the two, and its partner with it",
        )
        for group in groups
        for other in group[1:]
    ]


def _safe(stem: str) -> str:
    """Return a stem without what some file system or shell takes for something else."""
    return re.sub(r'^[.\-\s]+|[\\/:*?"<>|]|[.\s]+$', "_", unicodedata.normalize("NFC", stem))
