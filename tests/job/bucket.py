"""A bucket over HTTP that knows what the job needs of S3, and fails on everything else.

Presigned in spirit: a URL's signature is bound to method, key and, for create-only, to the header that it
signs. Faults are a function of each request, so that a test says when the store misbehaves.
"""

import base64
import hashlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from job.contract.manifest import Link

SALT = "planted-secret"


@dataclass(frozen=True)
class Request:
    """One request as a fault sees it. `number` counts requests of this method and key, from 1."""

    method: str
    key: str
    number: int
    headers: dict[str, str]


Fault = Callable[[Request], str | None]
"""Returns None (serve), "503", "403", "drop" (close before the write), "lost" (write, then close without an
answer), "cut" (half the answer's body, then close) or "hang" (until the bucket closes)."""


class Bucket:
    """Objects by key, on a port of loopback."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fault: Fault = lambda request: None
        self.requests: list[Request] = []
        self.user_agents: set[str] = set()
        self.unknown: list[str] = []
        self.on_put: dict[str, Callable[[], None]] = {}
        """Key → what happens once it is written."""
        self.changed = threading.Condition()
        self._closing = threading.Event()
        bucket = self

        class Handler(_Handler):
            store = bucket

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def link(self, method: str, key: str, expires_at: datetime) -> Link:
        port = self._server.server_address[1]
        query = f"X-Amz-Expires=900&X-Amz-Signature={signature(method, key)}"
        return Link(url=f"http://127.0.0.1:{port}/bucket/{key}?{query}", expires_at=expires_at)

    def wait_until(self, found: Callable[[], Any], seconds: float = 60, what: str = "it") -> Any:
        with self.changed:
            assert self.changed.wait_for(found, seconds), f"{what} did not happen"
            return found()

    def note(self, method: str, key: str, headers: dict[str, str]) -> Request:
        with self.changed:
            number = 1 + sum(r.method == method and r.key == key for r in self.requests)
            request = Request(method, key, number, headers)
            self.requests.append(request)
            self.changed.notify_all()
        return request

    def hang(self) -> None:
        self._closing.wait(60)


def signature(method: str, key: str) -> str:
    return hashlib.sha256(f"{SALT} {method} {key}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    store: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def _serve(self, method: str) -> None:
        parts = urlsplit(self.path)
        key = parts.path.removeprefix("/bucket/")
        body = self.rfile.read(int(self.headers["Content-Length"])) if method == "PUT" else b""
        create = self.headers.get("If-None-Match") == "*"
        signed = parse_qs(parts.query).get("X-Amz-Signature", [""])[0]
        self.store.user_agents.add(self.headers.get("User-Agent", ""))
        if signed != signature("CREATE" if create else method, key):
            self.store.unknown.append(f"{method} {key}")
            return self._answer(403)
        request = self.store.note(method, key, dict(self.headers.items()))
        fault = self.store.fault(request)
        if fault == "hang":
            self.store.hang()
        if fault in ("drop", "hang"):
            return self._cut_off()
        if fault in ("503", "403"):
            return self._answer(int(fault))
        if method == "GET":
            return self._get(key, cut=fault == "cut")
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        if self.headers.get("Content-MD5", md5) != md5:
            return self._answer(400)
        with self.store.changed:
            if create and key in self.store.objects:
                status = 412
            else:
                self.store.objects[key] = body
                self.store.changed.notify_all()
                status = 200
        if status == 200 and key in self.store.on_put:
            self.store.on_put[key]()
        if fault == "lost":
            return self._cut_off()
        return self._answer(status)

    def _get(self, key: str, *, cut: bool) -> None:
        data = self.store.objects.get(key)
        if data is None:
            return self._answer(404)
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        part = data[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if cut:
            self.wfile.write(part[: len(part) // 2])
            return self._cut_off()
        self.wfile.write(part)
        return None

    def _answer(self, status: int) -> None:
        # S3 quotes the request in its errors: the job must not pass that on.
        body = f"<Error><Resource>{self.path}</Resource></Error>".encode() if status >= 400 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _cut_off(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
