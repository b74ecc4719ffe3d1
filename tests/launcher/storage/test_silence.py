"""A server that says nothing, or too little, or too slowly: nobody is kept longer than needs be."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launcher.errors import StorageError
from launcher.storage import s3_reading
from launcher.storage.s3 import S3Store
from launcher.storage.s3_config import S3Config

SIZE = 9 << 20


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[str] = []
        self.ended = threading.Event()


class _Answers(BaseHTTPRequestHandler):
    """`empty` is answered without a byte, `silent` once and with 1000; `refused` may not be written."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        first = not self.server.asked
        self.server.asked.append(self.path)
        silent = "silent" in self.path
        if silent and not first:
            self.server.ended.wait(60)
            return
        self.send_response(206)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Range", f"bytes 0-{SIZE - 1}/{SIZE}" if silent else "bytes 0-99/100")
        if silent:
            last = int(self.headers["Range"].rpartition("-")[2])
            self.send_header("Content-Length", str(last + 1))
            self.end_headers()
            self.wfile.write(bytes(1000))
            self.wfile.flush()
            self.server.ended.wait(60)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"0\r\n\r\n")

    def do_PUT(self) -> None:
        if self.headers.get("Expect"):
            self.send_response_only(100)
            self.end_headers()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.path)
        refused = "refused" in self.path
        if not refused:
            time.sleep(0.05)
        self.send_response(403 if refused else 200)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def store(server: _Server) -> S3Store:
    return S3Store(config(server), attempts=1, read_seconds=0.2)


def config(server: _Server) -> S3Config:
    return S3Config(
        bucket="bucket",
        endpoint_url=f"http://127.0.0.1:{server.server_port}",
        access_key="AKIAEXAMPLE",
        secret_key="the-secret",
    )


def test_answers_without_bytes_are_not_asked_for_again_for_ever(
    store: S3Store, server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_reading, "RESUME_SECONDS", 0.01)
    with pytest.raises(StorageError, match="ends its answers before their end; could not read empty"):
        for _ in store.download("empty", tmp_path / "file"):
            pass
    assert len(server.asked) == 1 + s3_reading.RESUMES


def test_who_reads_from_a_silent_store_may_stop_before_it_gives_up(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_reading, "RESUME_SECONDS", 20.0)
    began = time.monotonic()
    counts = store.download("silent", tmp_path / "file")
    while next(counts):
        pass
    counts.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("range")]


def test_who_waits_for_a_later_range_is_told_that_nothing_comes(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_reading, "RANGE_BYTES", 1000)
    monkeypatch.setattr(s3_reading, "SIGN_SECONDS", 0.02)
    monkeypatch.setattr(s3_reading, "RESUME_SECONDS", 20.0)
    began = time.monotonic()
    counts = store.download("silent", tmp_path / "file")
    assert next(counts) == 1000
    assert [next(counts) for _ in range(5)] == [0] * 5
    counts.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 10


def test_a_silent_store_is_given_up_by_the_clock_too(
    store: S3Store, server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_reading, "RESUME_SECONDS", 0.01)
    monkeypatch.setattr(s3_reading, "SILENT_SECONDS", 0.3)
    with pytest.raises(StorageError, match="could not read silent"):
        for _ in store.download("silent", tmp_path / "file"):
            pass
    # Each request takes 0.2 s: of both ranges the second is the last.
    assert len(server.asked) <= 4


@pytest.mark.parametrize("first", ["many", "refused"])
def test_the_first_upload_that_fails_ends_the_others(server: _Server, tmp_path: Path, first: str) -> None:
    store = S3Store(config(server))
    (tmp_path / "file").write_bytes(b"x")
    names = [f"many/{number}" for number in range(400)]
    names.insert(0 if first == "refused" else 5, "refused")
    with pytest.raises(StorageError, match="upload refused"):
        store.upload_all(dict.fromkeys(names, tmp_path / "file"))
    assert len(server.asked) < 300, "eight at a time, of which one was refused at once"
