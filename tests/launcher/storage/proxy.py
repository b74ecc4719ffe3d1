"""A proxy in front of an S3 server that loses answers: what networks do, on demand."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit


class LossyProxy:
    """Passes requests on. Signatures hold: they cover the Host header, which stays the proxy's."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.lose_answers = 0
        """Of so many coming requests of `lose_method`: done by the server, never heard of."""
        self.lose_method = "PUT"
        self.cut_bodies = 0
        """Of so many coming GETs only half of the body arrives."""
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.before_answer: Callable[[], object] = lambda: None
        """Called between the server's answer and its delivery."""
        self.url = ""

    @contextmanager
    def running(self) -> Iterator["LossyProxy"]:
        handler = type("Handler", (_Handler,), {"proxy": self})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ClassVar[LossyProxy]

    def _pass_on(self) -> None:
        proxy = self.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        proxy.requests.append((self.command, headers))
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=30)
        upstream.request(self.command, self.path, body=body, headers=headers)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        proxy.before_answer()
        if proxy.lose_answers and self.command == proxy.lose_method:
            proxy.lose_answers -= 1
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        if self.command == "HEAD" and answer.getheader("Content-Length"):
            self.send_header("Content-Length", str(answer.getheader("Content-Length")))
        elif answer.status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if proxy.cut_bodies and self.command == "GET":
            proxy.cut_bodies -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    # The base class looks them up by these names.
    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Stay silent."""
