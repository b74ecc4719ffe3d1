"""The detached watchdog beside a run on rented pods: how it is started, and what it does as a process.

It outlives the launcher, its terminal and its death: a session of its own, nothing shared but a lock and a
log. Settings reach it by its environment, which others of this machine cannot read; its command line, which
they can, names the run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from pydantic import SecretStr

from launcher.cli.reap import reaper_of
from launcher.ending.watchdog import Watchdog
from launcher.errors import Exit, UsageError
from launcher.machine.clock import SystemClock
from launcher.machine.files import keep_end
from launcher.machine.locking import FileLock
from launcher.machine.processes import ProcessIdentity
from launcher.model import RunRecord
from launcher.ports import Notifier
from launcher.settings import Settings
from launcher.settings.model import ENVIRONMENT_PREFIX, NESTING

SOURCES = Path(__file__).parents[2]
START_SECONDS = 20.0
"""How long a command waits for the sign that its watchdog has begun; one or two are usual."""
LOOK_SECONDS = 0.05
GOODBYE_SECONDS = 10.0
"""How long a command waits for a watchdog that it dismissed."""
LOG_BYTES_MAX = 256 << 10
LOG_BYTES_KEPT = 64 << 10


def guard(settings: Settings, record: RunRecord, notifier: Notifier) -> None:
    """See to it that a watchdog is beside a run while it is open, and none afterwards."""
    if record.spec.place:
        # Pods of one machine cost no rent, and each has a watchdog inside.
        return
    if record.phase.closed:
        dismiss_watchdog(settings, record.run_id)
    else:
        start_watchdog(settings, record, notifier)


def start_watchdog(settings: Settings, record: RunRecord, notifier: Notifier) -> None:
    """Start the watchdog of a run, unless one watches on this machine already."""
    lock_path, log_path = _paths(settings, record.run_id)
    lock = FileLock(lock_path)
    try:
        lock_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not lock.take():
            return
        # In place, for the lock is on this very file. The watchdog writes into it who it is.
        lock_path.write_text("")
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                _command_line(record),
                env=environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # The lock lives as long as the watchdog: it is given back by its end, however that comes.
                pass_fds=(lock.fileno(),),
            )
    except OSError as error:
        notifier.say(f"no watchdog beside this run: {error.strerror}; the other layers hold")
        return
    finally:
        lock.release()
    if _begins(process, lock_path):
        notifier.say(
            f"a watchdog, process {process.pid}, ends this run's pods at their deadlines even if this command"
            f" dies; it writes to {log_path}"
        )
        return
    came = f"ended at its start, exit code {process.returncode}"
    if process.returncode is None:
        came = f"gave no sign within {START_SECONDS:.0f} s"
    notifier.say(
        f"NO WATCHDOG beside this run: process {process.pid} {came}; {log_path} may say why. The other layers"
        f" hold; `retrain attach {record.run_id}` starts another"
    )


def _begins(process: "subprocess.Popen[bytes]", lock_path: Path) -> bool:
    """Wait shortly for a watchdog's sign that it watches; False when it ended, or gave none in time."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            if lock_path.stat().st_size:
                return True
        except FileNotFoundError:
            return True  # it has begun and found nothing left to watch
        time.sleep(LOOK_SECONDS)
    return False


def dismiss_watchdog(settings: Settings, run_id: str) -> None:
    """End the watchdog of a run that is closed, if this machine has one: it would notice a minute later."""
    lock_path, _ = _paths(settings, run_id)
    try:
        identity = ProcessIdentity.from_json(json.loads(lock_path.read_bytes()))
        lock = FileLock(lock_path)
        if identity.could_be_seen_here() and identity.is_alive():
            os.kill(identity.pid, signal.SIGTERM)
        if lock.take(wait_seconds=GOODBYE_SECONDS):
            lock.release(remove=True)
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is none, or it leaves by itself


def watch(settings: Settings, run_id: str, until: int | None) -> int:
    """Be the watchdog of a run until it is over. Returns the exit code."""
    if until is None:
        raise UsageError("--watch needs --until", next_step="it is `retrain run` that starts a watchdog")
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lock_path, log_path = _paths(settings, run_id)
    notifier = _Logbook(log_path)
    reaper = reaper_of(settings, notifier, run_id=run_id)
    watchdog = Watchdog(
        reaper,
        SystemClock(),
        notifier,
        run_id=run_id,
        until=datetime.fromtimestamp(until, UTC),
        started_at=datetime.now(UTC),
    )
    notifier.say(f"watching over run {run_id}, process {os.getpid()}")
    # The sign that it has begun, and whom to dismiss. No disk and no folder is worth more than the watch.
    with suppress(OSError):
        lock_path.write_text(json.dumps(ProcessIdentity.current().to_json()))
    over = watchdog.watch()
    lock_path.unlink(missing_ok=True)
    return int(Exit.DONE if over else Exit.LEAKED)


class _Logbook:
    """A Notifier that writes to the log, which stays short, and says nothing twice in a row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = ""

    def say(self, message: str) -> None:
        if message == self._last:
            return
        self._last = message
        line = "".join(character if character.isprintable() else " " for character in message)
        with suppress(OSError):  # a full disk or a deleted folder keeps nobody from ending pods
            sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            sys.stderr.flush()
            keep_end(self._path, above=LOG_BYTES_MAX, end=LOG_BYTES_KEPT)


def _paths(settings: Settings, run_id: str) -> tuple[Path, Path]:
    """Return where a run's watchdog has its lock and its log."""
    folder = settings.run.workspace.resolve() / "watchdogs"
    return folder / f"{run_id}.lock", folder / f"{run_id}.log"


def _command_line(record: RunRecord) -> list[str]:
    # One second more: the end of the run's time is no whole second.
    end = record.created_at + timedelta(seconds=record.spec.budget.max_seconds + 1)
    # -P: a folder named `launcher` in the working directory is not ours.
    program = [sys.executable, "-P", "-m", "launcher.cli.root", "reap"]
    return [
        *program,
        # The settings come whole by the environment: a file that is changed meanwhile changes nothing.
        *("--config", os.devnull),
        *("--watch", record.run_id),
        *("--until", str(int(end.timestamp()))),
    ]


def environment(settings: Settings) -> Mapping[str, str]:
    """Return our own environment with the settings in it that the watchdog needs. Holds secrets."""
    path = os.pathsep.join(part for part in (str(SOURCES), os.environ.get("PYTHONPATH", "")) if part)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return {**inherited, **dict(_variables(settings)), "PYTHONPATH": path}


def _variables(settings: Settings) -> Iterator[tuple[str, str]]:
    run = settings.run
    sections = {
        "run": {"provider": run.provider, "namespace": run.namespace, "workspace": run.workspace.resolve()},
        "storage": dict(settings.storage),
        "docker": dict(settings.docker),
        "runpod": dict(settings.runpod),
        "clocks": {"create_lag": settings.clocks.create_lag},
    }
    for section, values in sections.items():
        for key, value in values.items():
            if value is not None:
                yield f"{ENVIRONMENT_PREFIX}{section}{NESTING}{key}".upper(), _as_text(value)


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(_as_text(item) for item in value)
    return str(value.value) if isinstance(value, Enum) else str(value)
