"""A registry of images on loopback: manifests, configs, anonymous tokens as Docker Hub and ghcr give them."""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYERS = (2_000_000_000, 1_000_000_000)
TOKEN = "anonymous-token"


@dataclass
class Registry:
    """What it holds and how it behaves; a test changes it at any time."""

    host: str = ""
    tokens: bool = False
    """Whether everybody has to fetch an anonymous token first."""
    private: bool = False
    """Whether an anonymous token is not enough."""
    silent: threading.Event | None = None
    """When set: no answer before that happens."""
    status: int = 0
    """Another answer to everything."""
    asked: list[str] = field(default_factory=list)
    _objects: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def push(
        self,
        path: str,
        tag: str,
        *platforms: str,
        layers: Sequence[int] = (3_000_000_000,),
        index: bool = True,
    ) -> str:
        """Put an image there for these architectures, and return its digest."""
        made = [self._image(path, platform, layers) for platform in platforms]
        if not index:
            (content,) = made
            return self._keep(path, tag, MANIFEST, content)
        listed = [
            {
                "mediaType": MANIFEST,
                "digest": digest(content),
                "platform": {"os": "linux", "architecture": arch},
            }
            for arch, content in zip(platforms, made, strict=True)
        ]
        # What builders add beside the images: attestations.
        unknown = {"os": "unknown", "architecture": "unknown"}
        listed.insert(0, {"mediaType": MANIFEST, "digest": "sha256:" + "0" * 64, "platform": unknown})
        return self._keep(path, tag, INDEX, _dump({"schemaVersion": 2, "manifests": listed}))

    def _image(self, path: str, platform: str, layers: Sequence[int]) -> bytes:
        config = _dump({"os": "linux", "architecture": platform})
        self._objects[f"/v2/{path}/blobs/{digest(config)}"] = ("application/octet-stream", config)
        manifest = _dump(
            {
                "schemaVersion": 2,
                "config": {"digest": digest(config)},
                "layers": [{"digest": "sha256:" + "1" * 64, "size": size} for size in layers],
            }
        )
        self._keep(path, digest(manifest), MANIFEST, manifest)
        return manifest

    def _keep(self, path: str, tag: str, kind: str, content: bytes) -> str:
        for name in (tag, digest(content)):
            self._objects[f"/v2/{path}/manifests/{name}"] = (kind, content)
        return digest(content)

    def answer(self, target: str, authorization: str) -> tuple[int, dict[str, str], bytes]:
        """Answer a GET."""
        parts = urlsplit(target)
        self.asked.append(parts.path)
        if self.silent is not None:
            self.silent.wait(30)
        if self.status:
            return self.status, {}, b"<html>"
        if parts.path == "/token":
            assert parse_qs(parts.query)["scope"][0].startswith("repository:"), parts.query
            return 200, {"Content-Type": "application/json"}, _dump({"token": TOKEN})
        admitted = authorization == f"Bearer {TOKEN}" and not self.private
        if (self.tokens or self.private) and not admitted:
            path = parts.path.removeprefix("/v2/").partition("/manifests")[0]
            challenge = f'Bearer realm="http://{self.host}/token",service="s",scope="repository:{path}:pull"'
            return 401, {"WWW-Authenticate": challenge}, b"{}"
        if parts.path not in self._objects:
            return 404, {}, b"{}"
        kind, content = self._objects[parts.path]
        return 200, {"Content-Type": kind, "Docker-Content-Digest": digest(content)}, content


@contextmanager
def serving() -> Iterator[Registry]:
    """Serve a registry until the context ends."""
    registry = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = registry.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def digest(content: bytes) -> str:
    """Return what a registry calls this content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()
