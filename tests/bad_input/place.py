"""A folder in which retrain is used, in this process, and what must not be left in it."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from job.contract.manifest import POD_ID_VARIABLE
from launcher.cli.root import execute
from launcher.storage.s3 import S3Store
from launcher.storage.s3_config import S3Config

NEVER_SAID = ("Traceback", "a bug in retrain", "X-Amz-Signature")


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All of it."""
        return self.out + self.err

    def assert_refused(self, code: int, words: tuple[str, ...]) -> None:
        """One sentence with all the words, one next step, the exit code, nothing on stdout."""
        assert self.code == code, self
        complaint = [line for line in self.err.splitlines() if line.startswith("retrain: ")]
        assert len(complaint) == 1, self.err
        assert "\n  next: " in self.err, self.err
        for word in words:
            assert word in self.err[self.err.index(complaint[0]) :], (word, self.err)
        assert self.out == ""


@dataclass
class Place:
    """The working directory of a test, and the bucket that its commands use where it has one."""

    folder: Path
    config: S3Config
    bucket: S3Store
    """To look into it: one for all tests, without a prefix."""
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch
    threads: frozenset[threading.Thread] = field(default_factory=lambda: frozenset(threading.enumerate()))
    """Of this process before the test: some are other tests' own."""

    def setenv(self, **variables: str) -> None:
        """Set variables of the environment."""
        for name, value in variables.items():
            self.patch.setenv(name, value)

    def use_bucket(self, **changes: str) -> None:
        """Let commands use the shared server, with a prefix of this test's own, or what is given instead."""
        told = {
            "bucket": self.config.bucket,
            "endpoint_url": self.config.endpoint_url or "",
            "access_key": self.config.access_key,
            "secret_key": self.config.secret_key,
            "prefix": self.config.prefix,
        }
        self.setenv(
            **{f"RETRAIN_STORAGE__{name.upper()}": value for name, value in {**told, **changes}.items()}
        )

    def file(self, name: str, data: bytes | str = b"") -> Path:
        """Write a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def retrain(self, *arguments: str) -> Said:
        """Run a command."""
        self.capture.readouterr()
        code = execute(arguments)
        said = Said(code, *self.capture.readouterr())
        for word in NEVER_SAID:
            assert word not in said.text, said.text
        return said

    def files(self) -> set[str]:
        """Return every file there is."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if not path.is_dir()}

    def assert_nothing_left(self, before: set[str], *, in_bucket: tuple[str, ...] = ()) -> None:
        """No new file, no pod, store or thread, nothing in the bucket: no input, no record, no name taken."""
        assert self.files() == before
        self.assert_nothing_runs()
        new = set(threading.enumerate()) - self.threads
        assert [thread.name for thread in new if thread.name in ("uploads", "state")] == []
        assert self.kept() == sorted(in_bucket)

    def kept(self) -> list[str]:
        """Return every key below this test's prefix."""
        return [item.key.removeprefix(self.config.prefix) for item in self.bucket.list(self.config.prefix)]

    def put(self, key: str, data: bytes) -> None:
        """Write an object below this test's prefix."""
        self.bucket.put(self.config.prefix + key, data)

    def assert_nothing_runs(self) -> None:
        """No pod, no store of this folder's."""
        assert _processes_of(str(self.folder)) == []


def _processes_of(folder: str) -> list[str]:
    """Return what runs in a folder or names it on its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            inside = POD_ID_VARIABLE in process.environ() and process.cwd().startswith(folder)
        except (psutil.Error, OSError):
            continue
        if inside or any(folder in word for word in words):
            found.append(" ".join(words))
    return found
