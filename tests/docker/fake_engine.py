"""A Docker engine of a few endpoints, over real HTTP on loopback: scripted to fail as real ones do.

Containers of an image named `sleeper` run until they are ended, those of `quitter` end at once; it has no
other images. An unknown request is answered with 501.
"""

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

IMAGES = ("sleeper", "quitter")
OUTPUT = "hello\nworld\n"


@dataclass
class Fault:
    """What happens instead of the next answer to an operation."""

    status: int | None
    """Of HTTP; None: the connection ends without an answer."""
    message: str = ""
    body: bytes | None = None
    """Sent as it is."""
    done: bool = False
    """Whether what was asked for is done all the same."""
    delay_seconds: float = 0.0


@dataclass
class FakeContainer:
    """A container and what it was made from."""

    name: str
    config: dict[str, Any]
    state: str = "created"
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass
class FakeEngine:
    """The state. `faults` are used up from the left, for each operation by itself."""

    address: str = ""
    engine_id: str = "engine-1"
    runtimes: tuple[str, ...] = ("runc",)
    system: str = "linux"
    containers: dict[str, FakeContainer] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    pullable: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Images that a registry has: what the engine says while it pulls them."""
    images: set[str] = field(default_factory=lambda: set(IMAGES))

    def fail(self, operation: str, fault: Fault) -> None:
        self.faults.setdefault(operation, []).append(fault)

    def named(self, name: str) -> FakeContainer | None:
        return next((item for item in self.containers.values() if item.name == name), None)

    # Operations: each returns a status and what is sent as JSON, or bytes.

    def version(self, query: dict[str, str], _body: Any) -> tuple[int, Any]:
        return 200, {"ApiVersion": "1.45"}

    def info(self, query: dict[str, str], _body: Any) -> tuple[int, Any]:
        said = {"ID": self.engine_id, "Name": "fake", "ServerVersion": "26.1", "OSType": self.system}
        said["SystemTime"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}789Z"
        return 200, {**said, "Runtimes": {name: {} for name in self.runtimes}}

    def list(self, query: dict[str, str], _body: Any) -> tuple[int, Any]:
        [wanted] = json.loads(query["filters"])["label"]
        name, _, value = wanted.partition("=")
        rows = [
            {"Id": key, "Names": [f"/{item.name}"], "State": item.state, "Created": item.created}
            | {"Labels": item.config["Labels"] or {}}
            for key, item in self.containers.items()
            if name in (labels := item.config["Labels"] or {}) and value in ("", labels[name])
        ]
        return 200, rows

    def create(self, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if body["Image"] not in self.images:
            return 404, {"message": f"No such image: {body['Image']}:latest"}
        if self.named(query["name"]):
            return 409, {"message": f'Conflict. The container name "/{query["name"]}" is already in use'}
        key = secrets.token_hex(32)
        self.containers[key] = FakeContainer(query["name"], body)
        return 201, {"Id": key, "Warnings": []}

    def start(self, key: str) -> tuple[int, Any]:
        item = self.containers[key]
        if item.config["HostConfig"].get("DeviceRequests") and "nvidia" not in self.runtimes:
            return 500, {"message": 'could not select device driver "" with capabilities: [[gpu]]'}
        if item.state == "running":
            return 304, b""
        item.state = "running" if item.config["Image"] == "sleeper" else "exited"
        return 204, b""

    def stop(self, key: str) -> tuple[int, Any]:
        self.containers[key].state = "exited"
        return 204, b""

    def remove(self, key: str) -> tuple[int, Any]:
        del self.containers[key]
        return 204, b""

    def inspect(self, key: str) -> tuple[int, Any]:
        return 200, {"Id": key, "Config": {"Tty": True}}

    def logs(self, key: str) -> tuple[int, Any]:
        return 200, OUTPUT.encode()

    def image(self, name: str) -> tuple[int, Any]:
        known = name in self.images
        return (200, {"Id": name}) if known else (404, {"message": f"No such image: {name}"})

    def pull(self, query: dict[str, str], _body: Any) -> tuple[int, Any]:
        name = query["fromImage"]
        if name not in self.pullable:
            return 404, {"message": f"pull access denied for {name}, repository does not exist"}
        self.images.add(name)
        return 200, [json.dumps(line).encode() + b"\r\n" for line in self.pullable[name]]


ROUTES: tuple[tuple[str, str, str], ...] = (
    ("GET", r"/version", "version"),
    ("GET", r"/info", "info"),
    ("GET", r"/containers/json", "list"),
    ("POST", r"/containers/create", "create"),
    ("POST", r"/containers/(\w+)/start", "start"),
    ("POST", r"/containers/(\w+)/stop", "stop"),
    ("DELETE", r"/containers/(\w+)", "remove"),
    ("GET", r"/containers/(\w+)/json", "inspect"),
    ("GET", r"/containers/(\w+)/logs", "logs"),
    ("GET", r"/images/(\S+)/json", "image"),
    ("POST", r"/images/create", "pull"),
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: FakeEngine

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        parts = urlsplit(self.path)
        path = re.sub(r"^/v1\.\d+", "", parts.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        for method, pattern, operation in ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, path)):
                act: Callable[..., tuple[int, Any]] = getattr(self.engine, operation)
                arguments = found.groups() or (query, body)
                self.engine.asked.append(operation)
                faults = self.engine.faults.get(operation)
                if faults:
                    self._fail(faults.pop(0), lambda act=act, arguments=arguments: act(*arguments))  # type: ignore[misc]
                elif operation != "image" and found.groups() and found[1] not in self.engine.containers:
                    self._answer(404, {"message": f"No such container: {found[1]}"})
                else:
                    self._answer(*act(*arguments))
                return
        self._answer(501, {"message": f"{self.command} {path}"})

    def _fail(self, fault: Fault, act: Callable[[], object]) -> None:
        if fault.done:
            act()
        time.sleep(fault.delay_seconds)
        if fault.status is None:
            self.close_connection = True
            self.connection.close()
            return
        self._answer(fault.status, fault.body if fault.body is not None else {"message": fault.message})

    def _answer(self, status: int, content: Any) -> None:
        if isinstance(content, list) and content and isinstance(content[0], bytes):
            self._stream(content)
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(data)

    def _stream(self, chunks: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in (*chunks, b""):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815


@contextmanager
def serve() -> Iterator[FakeEngine]:
    """Run an engine on a free port."""
    engine = FakeEngine()
    handler = type("Handler", (_Handler,), {"engine": engine})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    engine.address = f"tcp://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
