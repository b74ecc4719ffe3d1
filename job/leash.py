"""Runs a command that cannot outlive the job. Run by path, as a process; knows the standard library alone.

    python -I -S leash.py COMMAND ARGUMENT...

The leash leads the process group that the command and its children live in. Its standard input is a pipe
whose other end only the job holds: when the job dies, of SIGKILL too, the pipe ends and the leash kills the
whole group. That needs no code between fork and exec, no Linux, and no cooperation of the command
(PR_SET_PDEATHSIG would reach the command alone, not the workers it started). The command itself reads from
/dev/null. SIGTERM to the group is the command's to handle: the leash waits for it and ends the way it ended.
"""

import os
import signal
import subprocess
import sys
import threading

CANNOT_START = 127


def _kill_group() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _hold() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    _kill_group()


def main(argv: list[str]) -> int:
    """Run `argv`; return its exit code, or end by the signal that ended it."""
    # A handler, not SIG_IGN: what is ignored would stay ignored in the command.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"cannot start {argv[0]}: {error.strerror}\n")
        return CANNOT_START
    # The job reads to the end of output: that must be the command's end, not the leash's.
    threading.Thread(target=_hold, daemon=True).start()
    code = child.wait()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
