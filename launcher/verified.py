"""Which files of a folder are what their receipts say: hashed once, then believed while nothing touches them.

Knows receipts and the local disk.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from job.contract.records import Receipt
from launcher.files import sha256_of

RECORD_NAME = ".verified.jsonl"
_Stamp = list[int | str]


class Verified:
    """The files of one folder.

    Which of them was verified is kept in `.verified.jsonl` with size and time of change, so that a pass over
    a hundred checkpoints hashes none of them again. That record only saves work: losing it costs a hash.
    """

    def __init__(self, folder: Path, *, beat: Callable[[], None] = lambda: None) -> None:
        """Look at `folder`, which need not exist. `beat` is called all along while a file is hashed."""
        self._folder = folder
        self._beat = beat
        self._record: dict[str, _Stamp] | None = None

    def holds(self, name: str, receipt: Receipt) -> bool:
        """Tell whether the file of this name is here and what the receipt says, and can be read."""
        path = self._folder / name
        try:
            if path.is_symlink() or not path.is_file() or path.stat().st_size != receipt.bytes:
                return False
            if self._record is None:
                self._record = self._read()
            if self._record.get(name) == _stamp(path, receipt.sha256):
                return True
            if sha256_of(path, beat=self._beat) != receipt.sha256:
                return False
        except OSError:
            return False
        self.remember(name, receipt)
        return True

    def remember(self, name: str, receipt: Receipt) -> None:
        """Note that the file of this name was just seen to be what the receipt says."""
        with suppress(OSError):
            stamp = _stamp(self._folder / name, receipt.sha256)
            if self._record is not None:
                self._record[name] = stamp
            # One line at the end, at once: others may be bringing files into this folder now. Not synced.
            with (self._folder / RECORD_NAME).open("ab", buffering=0) as record:
                record.write(json.dumps([name, *stamp]).encode() + b"\n")

    def _read(self) -> dict[str, _Stamp]:
        """Return the last line of each name; what is no such line was cut off, and costs a hash."""
        found: dict[str, _Stamp] = {}
        with suppress(OSError):
            for line in (self._folder / RECORD_NAME).read_bytes().splitlines():
                with suppress(ValueError, TypeError):
                    name, *stamp = json.loads(line)
                    found[str(name)] = stamp
        return found


def _stamp(path: Path, sha256: str) -> _Stamp:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, sha256]
