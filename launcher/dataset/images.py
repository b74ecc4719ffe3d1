"""What an image is, found by decoding it once.

Knows Pillow, and one image at a time: the file plus 9 bytes a pixel in memory, 0.6 GiB at PIXELS_MAX.
"""

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass

from PIL import Image

from launcher.dataset.findings import Finding, error
from launcher.dataset.reading import Dataset, Pair
from launcher.errors import DatasetError

SIDE_MAX = 16_384
PIXELS_MAX = 2**26
FORMATS = {"PNG": {".png"}, "JPEG": {".jpg", ".jpeg"}, "WEBP": {".webp"}, "BMP": {".bmp"}}
"""Formats that are decoded at all, with their suffixes."""
_OTHER_FORMATS = (
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypavif", "AVIF"),
)
"""Offset, bytes there, and what they say of a file that was named after another format."""
_PNG_HEADER = struct.Struct(">8s4x4s8xB")
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class ImageFacts:
    """An image that decodes, without its pixels."""

    pair: Pair
    format: str
    mode: str
    """Pillow's name for its channels."""
    width: int
    height: int
    frames: int
    bits: int
    """Per channel."""
    transparent: bool
    """Whether any pixel lets the background through."""
    rotated: bool
    """Whether EXIF asks viewers to turn it, which trainers do not do."""
    sha256: str
    """Of the file."""


def look(dataset: Dataset, pair: Pair) -> ImageFacts | Finding:
    """Decode a pair's image to its last pixel. A finding when that is impossible or too much."""
    file = pair.image.path
    try:
        data = dataset.read(pair.image)
    except DatasetError as exc:
        return error("file-damaged", file, "cannot be read", exc.next_step)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is judged here
            with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
                return _too_large(file, image) or _facts(pair, data, image)
    except Image.DecompressionBombError:
        return error("image-too-large", file, "has too many pixels", f"scale it to at most {SIDE_MAX} a side")
    except Exception:  # noqa: BLE001 - Pillow's parsers let through whatever they stumble over
        return _unreadable(file, data)


def _unreadable(file: str, data: bytes) -> Finding:
    for offset, magic, name in _OTHER_FORMATS:
        if data.startswith(magic, offset):
            return error(
                "image-format", file, f"is {name} inside, which trainers do not read", "export it as PNG"
            )
    return error("image-unreadable", file, "is no image or was cut short", "export it again")


def _too_large(file: str, image: Image.Image) -> Finding | None:
    width, height = image.size
    if width < 1 or height < 1:
        return error("image-empty", file, f"has {width}×{height} pixels", "export it again")
    if max(width, height) > SIDE_MAX or width * height > PIXELS_MAX:
        advice = f"scale it to at most {SIDE_MAX} a side and {PIXELS_MAX} pixels"
        return error("image-too-large", file, f"has {width}×{height} pixels", advice)
    return None


def _facts(pair: Pair, data: bytes, image: Image.Image) -> ImageFacts:
    frames = int(getattr(image, "n_frames", 1))
    image.load()
    return ImageFacts(
        pair=pair,
        format=image.format or "",
        mode=image.mode,
        width=image.width,
        height=image.height,
        frames=frames,
        bits=_bits(data, image),
        transparent=_is_transparent(image),
        rotated=image.getexif().get(_EXIF_ORIENTATION, 1) != 1,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _bits(data: bytes, image: Image.Image) -> int:
    """Return bits per channel; Pillow hides them for colour PNG, so the header is asked."""
    if image.format == "PNG" and len(data) >= _PNG_HEADER.size:
        return int(_PNG_HEADER.unpack_from(data)[2])
    return 16 if image.mode.startswith("I") else 8


def _is_transparent(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
    return isinstance(lowest, int | float) and lowest < 255
