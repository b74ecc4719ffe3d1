"""The simulator on a port of loopback: HTTP/1.1, logs as Server-Sent Events."""

import contextlib
import json
import threading
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.simulators.runpod.service import Request, Service
from tests.simulators.runpod.wire import Answer, Delivery, Follow, log_document

POLL_SECONDS = 0.05
"""How soon a line shows up in a stream."""
KEEP_ALIVE_SECONDS = 15.0
"""How often a silent stream shows that it lives: a guess, and how a client that left is noticed."""


class Server:
    """Serves until it is closed."""

    def __init__(self, service: Service) -> None:
        self.closing = threading.Event()
        closing = self.closing

        class Handler(_Handler):
            pass

        Handler.service, Handler.closing = service, closing
        self._server = _Threads(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving; requests that hang are let go."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left in the middle is no error here."""


class _Handler(BaseHTTPRequestHandler):
    service: Service
    closing: threading.Event
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "simulator"

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the Date of an answer, by the simulator's clock."""
        return date_of(self.service) if timestamp is None else super().date_time_string(timestamp)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.service.answer(Request(self.command, self.path, headers, body))
        if answer.delivery is Delivery.NEVER:
            self.closing.wait()
        if answer.delivery is not Delivery.WHOLE:
            self.close_connection = True
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if answer.follow is not None:
                self._stream(answer.follow)
            else:
                self._send(answer)

    def _send(self, answer: Answer) -> None:
        body = answer.text if answer.value is None else json.dumps(answer.value).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if answer.status != 204:
            self.wfile.write(body)

    def _stream(self, follow: Follow) -> None:
        """Send lines as they come, until the pod is gone or the client has left."""
        self.close_connection = True
        self.send_response(200)
        for name, value in (
            ("Content-Type", "text/event-stream"),
            ("Cache-Control", "no-cache"),
            ("Connection", "keep-alive"),
            ("X-Accel-Buffering", "no"),
        ):
            self.send_header(name, value)
        self.end_headers()
        sent, silent = follow.after, 0.0
        while not self.closing.wait(POLL_SECONDS):
            with self.service.lock:
                exists = follow.pod.exists
                text, sent = events(follow, sent)
            silent = 0.0 if text else silent + POLL_SECONDS
            if silent >= KEEP_ALIVE_SECONDS:
                text, silent = b": keep-alive\n\n", 0.0
            self.wfile.write(text)
            if not exists:
                return


def date_of(service: Service) -> str:
    """Return the time as HTTP's Date has it."""
    return format_datetime(service.now(), usegmt=True)


def events(follow: Follow, sent: int) -> tuple[bytes, int]:
    """Return the lines after number `sent` as events, and the number of the last of them."""
    text = []
    for line in [line for line in list(follow.pod.logs) if line.number > sent]:
        sent = line.number
        if follow.source in (None, line.source):
            event, data = log_document(line)
            text.append(f"id: {event}\ndata: {json.dumps(data)}\n\n")
    return "".join(text).encode(), sent
