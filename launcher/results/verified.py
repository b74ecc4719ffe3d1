"""Which files of a folder are what their receipts say: hashed once, then believed while nothing touches them.

Knows receipts and the local disk.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from job.contract.records import Receipt
from launcher.machine.files import sha256_of

RECORD_NAME = ".verified.jsonl"
_Stamp = list[int | str]


class Verified:
    """The files of one folder.

    Which of them was verified is kept in `.verified.jsonl` with its inode, size and times of change, so that
    a pass over a hundred checkpoints hashes none of them again. That record only saves work: losing it costs
    a hash, and so does whatever touches a file.
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
            before = _stamp(path.stat(), receipt.sha256)
            if self._record.get(name) == before:
                return True
            if sha256_of(path, beat=self._beat) != receipt.sha256:
                return False
            if _stamp(path.stat(), receipt.sha256) != before:
                # Touched while it was read: what was hashed may be here no more.
                return False
        except OSError:
            return False
        self._note(name, before)
        return True

    def remember(self, name: str, receipt: Receipt, written: os.stat_result) -> None:
        """Note that the file of this name is what the receipt says, unless it is not what was `written`.

        `written` is how the file looked, under whatever name, before the last of it was hashed.
        """
        with suppress(OSError):
            now = (self._folder / name).stat()
            # The time of change is not compared: being renamed is one.
            if _content(now) == _content(written):
                self._note(name, _stamp(now, receipt.sha256))

    def _note(self, name: str, stamp: _Stamp) -> None:
        if self._record is not None:
            self._record[name] = stamp
        # One line at the end, at once: others may be bringing files into this folder now. Not synced.
        with suppress(OSError), (self._folder / RECORD_NAME).open("ab", buffering=0) as record:
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


def _content(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _stamp(stat: os.stat_result, sha256: str) -> _Stamp:
    """Return what changes with a file: its time of change even where somebody sets its mtime back."""
    return [*_content(stat), stat.st_ctime_ns, sha256]
