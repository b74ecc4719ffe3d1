"""Whole processes, measured as users start them: wall clock and the processor time of the process itself."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.figures import Sample


def run(
    argv: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Sample:
    """Run a command to its end. Raises CalledProcessError, with its last words, when it fails."""
    began = time.perf_counter()
    with subprocess.Popen(
        [str(word) for word in argv],
        env=None if environment is None else dict(environment),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read()
        # Unlike getrusage's total of all children, it is of this one, and of those that it waited for.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, child.args, stderr=said[-2000:])
    return Sample(seconds, usage.ru_utime + usage.ru_stime)
