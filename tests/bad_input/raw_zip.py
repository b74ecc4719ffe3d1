"""Writes zips byte by byte: what `zipfile` refuses to write is what has to be tested."""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

ENCRYPTED = 0x1
UTF8 = 0x800
REGULAR = 0o100644
SYMLINK = 0o120777
_UNIX = 3
_DATE = 0x21
"""1980-01-01."""
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True)
class Member:
    """One entry, with lies where they are asked for."""

    name: bytes
    data: bytes = b""
    mode: int = REGULAR
    flags: int = 0
    deflated: bool = False
    declared: int | None = None
    """What the zip says of the unpacked size; None is the truth."""


def raw_zip(members: Iterable[Member]) -> bytes:
    """Return a zip of these entries, checksums right, everything else as told."""
    body, directory, count = bytearray(), bytearray(), 0
    for member in members:
        at = len(body)
        packed = _deflate(member.data) if member.deflated else member.data
        head = struct.pack(
            "<HHHHHLLLHH",
            20,
            member.flags,
            _DEFLATED if member.deflated else _STORED,
            0,
            _DATE,
            zlib.crc32(member.data),
            len(packed),
            len(member.data) if member.declared is None else member.declared,
            len(member.name),
            0,
        )
        body += b"PK\x03\x04" + head + member.name + packed
        tail = struct.pack("<HHHLL", 0, 0, 0, member.mode << 16, at)
        directory += b"PK\x01\x02" + struct.pack("<BB", 20, _UNIX) + head + tail + member.name
        count += 1
    end = struct.pack("<HHHHLLH", 0, 0, min(count, 0xFFFF), min(count, 0xFFFF), len(directory), len(body), 0)
    return bytes(body + directory + b"PK\x05\x06" + end)


def _deflate(data: bytes) -> bytes:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeezer.compress(data) + squeezer.flush()
