"""What the local store's server says: kept short, and its last words for people.

Knows weed's log files and the local disk.
"""

import re
from contextlib import suppress
from pathlib import Path

from launcher.machine.files import keep_end

OUTPUT_BYTES_MAX = 8 << 20
LOGS_KEPT = 4
TAIL_LINES = 15
TAIL_BYTES = 16 << 10
_ERROR_LINE = re.compile(r"[EF]\d{4} |panic: |flag provided")
"""glog's errors and fatal errors, Go's panics, and a flag of another version of weed."""


class ServerLog:
    """The folder of the server's logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "output.txt"
        """What weed says outside its log: its banner, and why it ended."""

    def begin(self) -> None:
        """Make room for the words of a new process; those of the last one are kept. Raises OSError."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        # weed rotates what one process writes; every start begins a file of its own.
        logs = sorted(self.folder.glob("weed.*.log.*"), key=lambda path: path.lstat().st_mtime)
        for path in logs[:-LOGS_KEPT]:
            path.unlink(missing_ok=True)
        if self.output.exists():
            self.output.replace(self.output.with_name("output.old.txt"))

    def trim(self) -> None:
        """Keep the end of what weed said when it has become long. It appends, so it goes on behind that."""
        with suppress(OSError):
            keep_end(self.output, above=OUTPUT_BYTES_MAX, end=TAIL_BYTES)

    def tail(self) -> str:
        """Return the last lines that weed wrote, errors alone where there are any; stacks would bury them.

        It prints no keys: it knows them by environment.
        """
        with suppress(OSError):
            text = self.output.read_bytes().decode(errors="replace")
            lines = [line.rstrip() for line in text.splitlines() if line.strip()]
            errors = [line for line in lines if _ERROR_LINE.match(line)]
            return "\n".join((errors or lines)[-TAIL_LINES:])
        return ""
