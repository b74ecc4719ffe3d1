"""The local store's memory stays below what docs/storage.md says, and its limits stop nobody for long."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from launcher.storage import weed
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.s3 import S3Store
from tests.launcher.storage.servers import clean, pids

BOUND_MIB = 512
"""docs/storage.md: Memory."""
MIB = 1 << 20


class Peak:
    mib = 0


@contextmanager
def peak_of(pid: int) -> Iterator[Peak]:
    """Look twenty times a second how much resident memory a process has."""
    process, peak, done = psutil.Process(pid), Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak.mib = max(peak.mib, process.memory_info().rss // MIB)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
def test_its_memory_is_bounded(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "store")
    try:
        store = S3Store(server.connect())
        large = tmp_path / "large"
        large.write_bytes(os.urandom(64 * MIB))
        with peak_of(pids(server)[0]) as peak, ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: store.upload(large, f"large/{number}"), range(4)))
            for number in range(2):
                copy = tmp_path / f"copy-{number}"
                assert sum(store.download(f"large/{number}", copy)) == 64 * MIB
            list(pool.map(lambda number: store.put(f"small/{number}", os.urandom(2000)), range(1000)))
            assert len(store.list("small/")) == 1000
        assert 50 < peak.mib < BOUND_MIB
    finally:
        clean(server)


def begin_to_upload(store: S3Store, key: str) -> socket.socket:
    """Send half of an object, as a pod that is stopped in the middle does."""
    link = store.presign_put(key, expires_at=datetime.now(UTC) + timedelta(minutes=5))
    url = urlsplit(link.url.get_secret_value())
    connection = socket.create_connection((str(url.hostname), int(url.port or 0)))
    head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {2 * MIB}\r\n\r\n"
    connection.sendall(head.encode() + bytes(MIB))
    return connection


@pytest.mark.slow
def test_uploads_that_stall_keep_others_waiting_for_the_idle_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weed, "_IDLE_SECONDS", 3)
    server = EmbeddedServer(tmp_path / "store")
    stalled: list[socket.socket] = []
    try:
        store = S3Store(server.connect())
        stalled += [begin_to_upload(store, f"stalled/{number}") for number in range(weed._UPLOADS_MAX)]
        time.sleep(0.5)
        started = time.monotonic()
        store.put("heartbeat", b"alive")
        assert 1 < time.monotonic() - started < 15
        assert store.list("stalled/") == []
    finally:
        for connection in stalled:
            connection.close()
        clean(server)
