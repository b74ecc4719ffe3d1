"""Writes dataset.zip: 203 captioned portraits, the same bytes on every machine.

Nothing is compressed, because compressed bytes differ between versions of zlib; indexed pixels keep it small.

    python make_dataset.py [dataset.zip]
"""

from __future__ import annotations

import argparse
import io
import itertools
import random
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import portraits

SEED = 23
COUNT = 203
TIMESTAMP = (1980, 1, 1, 0, 0, 0)
"""The earliest date a zip can hold."""

NAMES = (
    "agate", "amber", "basalt", "birch", "bronze", "carbon", "cedar", "chalk", "cobalt", "coral", "ember",
    "fern", "flint", "garnet", "granite", "hazel", "indium", "ivory", "jasper", "larch", "marble", "neon",
    "nickel", "onyx", "opal", "pearl", "quartz", "ruby", "sable", "slate", "topaz", "umber", "willow",
    "xenon", "yarrow", "zinc",
)  # fmt: skip


def subjects() -> list[portraits.Portrait]:
    """The dataset's portraits: hairstyles and expressions in equal shares, no two portraits the same."""
    rng = random.Random(SEED)
    pairs = itertools.cycle(itertools.product(portraits.HAIRSTYLES, portraits.EXPRESSIONS))
    chosen: dict[portraits.Portrait, None] = {}
    for hairstyle, expression in itertools.islice(pairs, COUNT):
        while (one := portraits.draw_attributes(rng, hairstyle=hairstyle, expression=expression)) in chosen:
            pass
        chosen[one] = None
    result = list(chosen)
    rng.shuffle(result)
    return result


def png(pixels: np.ndarray) -> bytes:
    """An indexed PNG of a height x width x 3 image, its pixels stored uncompressed."""
    height, width, _ = pixels.shape
    colours, indices = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    lines = indices.reshape(height, width).astype(np.uint8)
    raw = b"".join(b"\0" + line.tobytes() for line in lines)
    stored = (
        b"\x78\x01\x01"
        + struct.pack("<HH", len(raw), len(raw) ^ 0xFFFF)
        + raw
        + struct.pack(">I", zlib.adler32(raw))
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", colours.astype(np.uint8).tobytes()),
        (b"IDAT", stored),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def dataset_zip() -> bytes:
    """The whole archive: `lad_001_name.png` and `.txt` side by side, sorted by name."""
    files: dict[str, bytes] = {}
    for number, portrait in enumerate(subjects(), start=1):
        stem = f"{portrait.sex}_{number:03d}_{NAMES[number % len(NAMES)]}"
        files[f"{stem}.png"] = png(portraits.paint(portrait))
        files[f"{stem}.txt"] = (portraits.caption(portrait, taught=True) + "\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, TIMESTAMP)
            entry.create_system = 3  # unix, whatever this runs on
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, nargs="?", default=Path(__file__).with_name("dataset.zip"))
    parser.parse_args().output.write_bytes(dataset_zip())
