"""What is wrong with a data set: many small checks in two lists, all findings at once.

A check of one image takes its facts, a check of the whole takes everything that was seen; both only return
findings. To add one, write the function and put it in its list.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from launcher.dataset.findings import Finding, Severity, error, note, warning
from launcher.dataset.images import FORMATS, ImageFacts, look
from launcher.dataset.reading import Dataset, Pair
from launcher.errors import DatasetError

PREFIX_SHARE = 0.8
"""Leading phrases count as the data set's prefix when this share of captions has them."""
PREFIX_CAPTIONS_MIN = 5
_ORDER = tuple(Severity)


@dataclass(frozen=True)
class Survey:
    """A data set and what its images turned out to be."""

    dataset: Dataset
    images: tuple[ImageFacts, ...]
    """Of the pairs whose image decodes."""


def check(dataset: Dataset) -> tuple[Finding, ...]:
    """Return everything found, errors first, then by file."""
    findings = list(dataset.findings)
    images: list[ImageFacts] = []
    for pair in dataset.pairs:
        seen = look(dataset, pair)
        if isinstance(seen, Finding):
            findings.append(seen)
            continue
        images.append(seen)
        for image_check in IMAGE_CHECKS:
            findings.extend(image_check(seen))
    survey = Survey(dataset, tuple(images))
    for dataset_check in DATASET_CHECKS:
        findings.extend(dataset_check(survey))
    return tuple(sorted(findings, key=lambda f: (_ORDER.index(f.severity), f.file, f.code)))


def require_sound(dataset: Dataset, findings: Iterable[Finding]) -> None:
    """Raise DatasetError that names the first error found, if there is any."""
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if not errors:
        return
    first = errors[0]
    subject = f"{dataset.path}: {first.file} {first.seen}" if first.file else f"{dataset.path} {first.seen}"
    if len(errors) == 1:
        raise DatasetError(subject, next_step=first.advice)
    raise DatasetError(
        f"{subject}, and {len(errors) - 1} more of the kind that cannot be trained",
        next_step=f"list them all with `retrain check {dataset.path}`",
    )


# One image


def _transparency(image: ImageFacts) -> Iterator[Finding]:
    if image.transparent:
        seen = "has transparent pixels, which trainers fill as they like"
        yield warning("image-transparent", image.pair.image.path, seen, "put it on the background you mean")


def _animation(image: ImageFacts) -> Iterator[Finding]:
    if image.frames > 1:
        seen = f"has {image.frames} frames, of which the first is trained"
        yield warning("image-animated", image.pair.image.path, seen, "export the frame you mean")


def _cmyk(image: ImageFacts) -> Iterator[Finding]:
    if image.mode == "CMYK":
        yield warning(
            "image-cmyk", image.pair.image.path, "is CMYK; its colours will shift", "export it as RGB"
        )


def _depth(image: ImageFacts) -> Iterator[Finding]:
    if image.bits > 8:
        seen = f"has {image.bits} bits a channel; trainers cut them to 8"
        yield warning("image-16-bit", image.pair.image.path, seen, "export it with 8 bits")


def _rotation(image: ImageFacts) -> Iterator[Finding]:
    if image.rotated:
        seen = "is turned by its EXIF data, which trainers ignore"
        yield warning("image-rotated", image.pair.image.path, seen, "export it upright")


def _suffix(image: ImageFacts) -> Iterator[Finding]:
    file = image.pair.image.path
    if PurePosixPath(file).suffix.lower() not in FORMATS[image.format]:
        yield warning("image-suffix", file, f"is {image.format} inside", "name it after its format")


IMAGE_CHECKS: tuple[Callable[[ImageFacts], Iterable[Finding]], ...] = (
    _transparency,
    _animation,
    _cmyk,
    _depth,
    _rotation,
    _suffix,
)


# The whole


def _pairs(survey: Survey) -> Iterator[Finding]:
    dataset = survey.dataset
    # Where an error says why there is no pair, that there is none would only hide it.
    explained = any(finding.severity is Severity.ERROR for finding in dataset.findings)
    halves = dataset.images_without_caption or dataset.captions_without_image
    if not (dataset.pairs or halves or explained):
        seen = "holds no pair of an image and a caption of the same name"
        yield error("no-pairs", "", seen, "put NAME.png beside NAME.txt")
    for file in dataset.images_without_caption:
        yield error("caption-missing", file, "has no caption", "write one, or take the image out")
    for file in dataset.captions_without_image:
        yield error("image-missing", file, "has no image", "add the image, or take the caption out")


def _foreign(survey: Survey) -> Iterator[Finding]:
    for file in survey.dataset.foreign:
        yield note("foreign-file", file, "is neither image nor caption and stays behind", "nothing to do")


def _same_images(survey: Survey) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for image in survey.images:
        file = image.pair.image.path
        earlier = first.setdefault(image.sha256, file)
        if earlier != file:
            yield warning("image-duplicate", file, f"is the same file as {earlier}", "keep one of the two")


def _same_captions(survey: Survey) -> Iterator[Finding]:
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in survey.dataset.pairs:
        groups[pair.caption].append(pair)
    for first, *others in groups.values():
        for pair in others:
            seen = f"says exactly what {first.caption_file.path} says"
            yield warning(
                "caption-duplicate", pair.caption_file.path, seen, "say what tells the images apart"
            )


def _several_lines(survey: Survey) -> Iterator[Finding]:
    for pair in survey.dataset.pairs:
        if pair.caption_lines > 1:
            seen = f"has {pair.caption_lines} lines, of which the first is trained"
            yield warning("caption-lines", pair.caption_file.path, seen, "write it in one line")


def _byte_order_marks(survey: Survey) -> Iterator[Finding]:
    for pair in survey.dataset.pairs:
        if pair.caption_marked:
            seen = "starts with a byte order mark, which is trained as text"
            yield warning("caption-bom", pair.caption_file.path, seen, "save it as UTF-8 without one")


def _prefix(survey: Survey) -> Iterator[Finding]:
    pairs = survey.dataset.pairs
    prefix = common_prefix([pair.caption for pair in pairs])
    if prefix:
        for pair in pairs:
            if phrases(pair.caption)[: len(prefix)] != prefix:
                seen = f"does not start with {', '.join(prefix)!r} as most others do"
                yield warning("caption-prefix", pair.caption_file.path, seen, "start it like the others")


DATASET_CHECKS: tuple[Callable[[Survey], Iterable[Finding]], ...] = (
    _pairs,
    _foreign,
    _same_images,
    _same_captions,
    _several_lines,
    _byte_order_marks,
    _prefix,
)


def phrases(caption: str) -> tuple[str, ...]:
    """Return a caption's comma-separated phrases, as a shuffle sees them."""
    return tuple(phrase.strip() for phrase in caption.split(","))


def common_prefix(captions: Iterable[str]) -> tuple[str, ...]:
    """Return the longest run of leading phrases that PREFIX_SHARE of the captions share; () for none."""
    remaining = [phrases(caption) for caption in captions]
    enough = max(PREFIX_CAPTIONS_MIN, PREFIX_SHARE * len(remaining))
    prefix: tuple[str, ...] = ()
    while True:
        longer = Counter(p[: len(prefix) + 1] for p in remaining if len(p) > len(prefix))
        if not longer:
            return prefix
        best, count = longer.most_common(1)[0]
        if count < enough:
            return prefix
        prefix = best
        remaining = [p for p in remaining if p[: len(prefix)] == prefix]
