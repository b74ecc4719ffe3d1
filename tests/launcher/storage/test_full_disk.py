"""A disk that fills up under the local store: refused in a sentence, nothing half-visible, and it goes on."""

import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from launcher.errors import LocalDiskError, RetrainError, StorageError
from launcher.storage import weed
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.s3 import PART_BYTES, S3Store
from launcher.storage.s3_config import S3Config
from tests.launcher.storage.servers import kill, pids

pytestmark = pytest.mark.slow

RECOVERY_SECONDS = 90
"""weed looks at the disk once a minute."""
MIB = 1 << 20


@contextmanager
def no_file_longer_than(limit: int, pid: int) -> Iterator[None]:
    """Let the kernel refuse a process to write further into a file: without root, what a quota does."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def eventually_put(store: S3Store, key: str, data: bytes) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            store.put(key, data)
            return
        except StorageError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def eventually_got(store: S3Store, key: str) -> bytes:
    """Read; while a full disk keeps weed busy it answers some reads with nothing; that must be named."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return store.get(key)[0]
        except StorageError as error:
            assert "is full (0 MiB free)" in str(error)
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def test_writes_that_the_disk_refuses_leave_nothing_behind(server: EmbeddedServer, tmp_path: Path) -> None:
    store = S3Store(server.connect())
    kept = {f"kept/{number}": os.urandom(MIB) for number in range(5)}
    for key, data in kept.items():
        store.put(key, data)
    record = store.put("record", b"first")
    large = tmp_path / "large"
    large.write_bytes(os.urandom(3 * PART_BYTES))
    (pid,) = pids(server)
    with no_file_longer_than(2 * MIB, pid):
        for action in (
            lambda: store.put("new", os.urandom(3 * MIB)),
            lambda: store.put("record", os.urandom(3 * MIB), if_match=record),
            lambda: store.upload(large, "large"),
        ):
            with pytest.raises(StorageError) as caught:
                action()
            assert caught.value.next_step
        assert store.get("record") == (b"first", record)
        assert {item.key for item in store.list("")} == {*kept, "record", ".ready"}
    eventually_put(store, "new", b"room again")
    store.upload(large, "large")
    assert store.list("large")[0].size == large.stat().st_size
    kill(server)
    store = S3Store(server.connect())
    assert all(store.get(key)[0] == data for key, data in kept.items())
    assert store.get("record")[0] == b"first"


def test_a_full_disk_is_named_where_the_store_cannot_say_it(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(server.connect())
    (pid,) = pids(server)
    monkeypatch.setattr(
        "launcher.storage.s3_errors.shutil.disk_usage", lambda _: SimpleNamespace(free=3 * MIB)
    )
    with no_file_longer_than(1, pid), pytest.raises(StorageError) as caught:
        store.put("new", os.urandom(MIB))
    assert str(caught.value) == (
        f"The disk of the local store, {server.folder}, is full (3 MiB free); could not write new."
    )
    assert "Make room" in caught.value.next_step


class _HalfAnswers(BaseHTTPRequestHandler):
    """Says yes to everything and leaves out the ETag, as the store now and then does on a full disk."""

    def _yes(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        begun = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
        body = begun if self.command == "POST" else b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = _yes  # noqa: N815 (the base class looks them up by these names)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Stay silent."""


@pytest.mark.parametrize("free", [3 * MIB, weed.FREE_BYTES_MIN])
def test_half_an_answer_is_told_by_the_room_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    says = "is full (3 MiB free)" if free < weed.FREE_BYTES_MIN else "does not answer as an S3 store does"
    monkeypatch.setattr("launcher.storage.s3_errors.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    large = tmp_path / "large"
    large.write_bytes(bytes(PART_BYTES + 1))
    with ThreadingHTTPServer(("127.0.0.1", 0), _HalfAnswers) as half:
        Thread(target=half.serve_forever, daemon=True).start()
        store = S3Store(
            S3Config(
                bucket="b",
                endpoint_url=f"http://127.0.0.1:{half.server_address[1]}",
                access_key="a",
                secret_key="s",
                folder=tmp_path,
                free_bytes_min=weed.FREE_BYTES_MIN,
            )
        )
        for action in (lambda: store.put("key", b"data"), lambda: store.upload(large, "key")):
            with pytest.raises(StorageError) as caught:
                action()
            assert says in str(caught.value) and "key" in str(caught.value)
            assert caught.value.next_step
        half.shutdown()


def test_its_own_record_cannot_be_written(server: EmbeddedServer) -> None:
    """The launcher's disk error, not the server's: server.json comes before the process."""
    with no_file_longer_than(10, os.getpid()), pytest.raises(LocalDiskError) as caught:
        server.connect()
    assert str(server.folder) in str(caught.value)
    assert not server.is_running()
    assert not (server.folder / "server.json").exists()
    server.connect()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for the store and 60 MiB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = weed.FREE_BYTES_MIN + 150 * MIB
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """What another program does: take all that is left."""
    with path.open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"\0" * MIB)
            file.flush()


def test_a_disk_that_another_program_fills(small_disk: Path, tmp_path: Path) -> None:
    server = EmbeddedServer(small_disk / "store")
    try:
        store = S3Store(server.connect())
        before = os.urandom(MIB)
        store.put("before", before)
        fill(small_disk / "ballast")
        large = tmp_path / "large"
        large.write_bytes(os.urandom(2 * PART_BYTES))
        with pytest.raises(RetrainError, match=r"is full \(0 MiB free\); could not upload large"):
            store.upload(large, "large")
        assert eventually_got(store, "before") == before
        kill(server)
        with pytest.raises(LocalDiskError, match=r"0 MiB free|disk is full"):
            server.connect()
        (small_disk / "ballast").unlink()
        store = S3Store(server.connect())
        assert {item.key for item in store.list("")} == {".ready", "before"}
        assert store.get("before")[0] == before
        store.upload(large, "large")
        fill(small_disk / "ballast")
        assert server.stop(), "ending needs no room"
        assert not server.is_running()
    finally:
        kill(server)


def test_acknowledged_is_written(server: EmbeddedServer) -> None:
    """What the store has answered for survives a SIGKILL in the middle of other writes, again and again."""
    kept: dict[str, bytes] = {}
    for life in range(3):
        store = S3Store(server.connect())
        assert all(store.get(key)[0] == data for key, data in kept.items()), life
        writer = subprocess.Popen(
            [
                "sh",
                "-c",
                'sleep 0.7; kill -9 "$0"',
                str(pids(server)[0]),
            ]
        )
        try:
            while True:
                key, data = f"{life}/{len(kept)}", os.urandom(len(kept) % 7 * 40_000 + 10)
                store.put(key, data)
                kept[key] = data
        except StorageError:
            writer.wait()
    store = S3Store(server.connect())
    assert all(store.get(key)[0] == data for key, data in kept.items())
    listed = {item.key for item in store.list("")} - {".ready"}
    # Of the write that was under way each time, nothing or all is there.
    assert set(kept) <= listed and len(listed) <= len(kept) + 3
