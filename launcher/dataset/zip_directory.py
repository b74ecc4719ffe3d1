"""How large a zip's table of contents is, told before zipfile reads all of it into memory.

Knows a zip's last records; nothing of entries.
"""

import struct
from typing import BinaryIO

DIRECTORY_BYTES_MAX = 32 * 2**20
"""Of a zip's table of contents, which is read whole: 100,000 entries need about half of it."""
_END = struct.Struct("<4s8xL6x")
"""A zip's last record: signature, length of the table of contents."""
_LOCATOR = struct.Struct("<4s4xQ4x")
"""Signature, where the last record of a large zip is."""
_END64 = struct.Struct("<4s36xQ8x")
"""The last record of a large zip: signature, length of the table of contents."""


def has_too_many(file: BinaryIO, size: int, entries_max: int) -> bool:
    """Tell whether a zip of `size` bytes lists more than `entries_max` entries, or longer than can be read.

    Raises struct.error, OSError and OverflowError on bytes that are no proper zip.
    """
    tail_length = min(size, _END.size + 0xFFFF + _LOCATOR.size + _END64.size)
    file.seek(size - tail_length)
    tail = file.read(tail_length)
    length = _directory_bytes(file, tail)
    if length > DIRECTORY_BYTES_MAX:
        return True
    file.seek(max(0, size - tail_length - length))
    return file.read(tail_length + length).count(b"PK\x01\x02") > entries_max


def _directory_bytes(file: BinaryIO, tail: bytes) -> int:
    """Return the length of the table of contents as the zip's last records have it, 0 where there is none.

    Which record counts depends on the reader; of several the largest is taken.
    """
    at = len(tail) - _END.size
    if at < 0 or not tail.startswith(b"PK\x05\x06", at):
        at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + _END.size:
        return 0
    lengths = [_END.unpack_from(tail, at)[1]]
    if at >= _LOCATOR.size and tail.startswith(b"PK\x06\x07", at - _LOCATOR.size):
        file.seek(_LOCATOR.unpack_from(tail, at - _LOCATOR.size)[1])
        before = at - _LOCATOR.size - _END64.size
        for record in (file.read(_END64.size), tail[max(0, before) : before + _END64.size]):
            if len(record) == _END64.size and record.startswith(b"PK\x06\x06"):
                lengths.append(_END64.unpack(record)[1])
    return int(max(lengths))
