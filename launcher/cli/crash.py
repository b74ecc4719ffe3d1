"""What is kept of an unexpected error: its traceback without secrets, in a file, and a sentence about it.

Imported when something crashed: what it needs would make every command start later.
"""

import re
import traceback
from datetime import UTC, datetime
from pathlib import Path

CRASH_FOLDER = Path(".retrain")
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")


def trace_of(error: Exception) -> str:
    """Return the traceback. URLs lose their query: a presigned one is a bearer secret."""
    return _QUERY.sub(r"\1?…", "".join(traceback.format_exception(error)))


def keep(error: Exception) -> str:
    """Write the traceback to a file that only its owner reads, and return what to do next."""
    path = CRASH_FOLDER / f"crash-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.txt"
    try:
        CRASH_FOLDER.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(trace_of(error))
    except OSError:
        return "run again with `retrain --debug` to see where"
    return f"report it with {path}; `retrain status` shows whether anything still runs"
