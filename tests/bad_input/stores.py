"""The table, part three: buckets that are not what they should be."""

import io
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from urllib3.response import HTTPResponse

from job.contract import keys
from launcher.errors import Exit
from launcher.storage.s3_config import S3Config
from tests.bad_input.place import Place


@dataclass(frozen=True)
class Bucket:
    """One kind of bucket."""

    id: str
    given: Callable[[Place], Any]
    """Sets it up; a context manager where something has to run meanwhile."""
    says: tuple[str, ...]
    code: Exit = Exit.INFRASTRUCTURE
    left: tuple[str, ...] = ()
    """What the case itself put into the bucket, which stays."""
    arguments: tuple[str, ...] = ("run", "--training-zip", "set.zip", "--output-name", "lora")


def told(**changes: str) -> Callable[[Place], None]:
    """Use the shared server with something changed."""
    return lambda place: place.use_bucket(**changes)


def nobody_listens(place: Place) -> None:
    """Name a port of loopback on which nobody is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place.use_bucket(endpoint_url=f"http://127.0.0.1:{port}")


@contextmanager
def answering(place: Place, status: int, body: bytes, kind: str) -> Iterator[None]:
    """Name a server that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        place.use_bucket(endpoint_url=f"http://127.0.0.1:{server.server_address[1]}")
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def web_page(place: Place) -> Any:
    """Name a web server that is no store."""
    return answering(place, 200, b"<html><body>Welcome to nginx!</body></html>", "text/html")


def ignoring_conditions(place: Place) -> None:
    """Use a store that overwrites whatever the condition says."""

    def forget(params: dict[str, Any]) -> None:
        for name in ("If-None-Match", "If-Match"):
            params["headers"].pop(name, None)

    _alter_puts(place, forget)


def refusing_conditions(place: Place) -> None:
    """Use a store that answers 501 to a condition, as older ones do."""
    refusal = b"<Error><Code>NotImplemented</Code><Message>A header is not implemented</Message></Error>"

    def answer(request: AWSPreparedRequest, **_: Any) -> AWSResponse | None:
        if not {"If-None-Match", "If-Match"} & set(request.headers):
            return None
        raw = HTTPResponse(io.BytesIO(refusal), preload_content=False)
        return AWSResponse(request.url, 501, HTTPHeaders(), raw)

    _with_client(place, lambda made: made.meta.events.register("before-send.s3.PutObject", answer))


def _alter_puts(place: Place, alter: Callable[[dict[str, Any]], None]) -> None:
    """Change every PUT before it is signed: the server then sees what such a store would heed."""

    def change(params: dict[str, Any], **_: Any) -> None:
        alter(params)

    _with_client(place, lambda made: made.meta.events.register("before-call.s3.PutObject", change))


def _with_client(place: Place, do: Callable[[Any], object]) -> None:
    """Use the shared server through clients to which something was done."""
    place.use_bucket()
    original = S3Config.client

    def client(self: S3Config, **options: Any) -> Any:
        made = original(self, **options)
        do(made)
        return made

    place.patch.setattr(S3Config, "client", client)


def ending_soon(place: Place) -> None:
    """Use keys that end in an hour, from where AWS tools keep such: every link ends with them."""
    place.use_bucket(access_key="", secret_key="")
    keys_told = {
        "Version": 1,
        "AccessKeyId": place.config.access_key,
        "SecretAccessKey": place.config.secret_key,
        "Expiration": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    }
    file = place.file("aws/keys.json", json.dumps(keys_told))
    config = place.file("aws/config", f"[default]\ncredential_process = cat {file}\n")
    place.setenv(AWS_CONFIG_FILE=str(config), AWS_SHARED_CREDENTIALS_FILE=str(place.folder / "aws/none"))


def holding(key: str, data: bytes) -> Callable[[Place], None]:
    """Use a bucket in which an object of this content lies."""

    def given(place: Place) -> None:
        place.use_bucket()
        place.put(key, data)

    return given


OTHER = "20260101-000000-abcdef"
OTHER_RECORD = keys.record_key(OTHER)
BROKEN_LOCK = keys.name_lock_key("lora")

BUCKETS = (
    Bucket(
        "record-of-another-major-version",
        holding(OTHER_RECORD, b'{"v": "2.0"}'),
        (OTHER, "schema version '2.0' is not 1.x", "version of retrain that wrote it"),
        left=(OTHER_RECORD,),
        arguments=("attach", OTHER),
    ),
    Bucket(
        "record-damaged",
        holding(OTHER_RECORD, b"\xff" * 99),
        (OTHER, "not JSON"),
        left=(OTHER_RECORD,),
        arguments=("cancel", OTHER),
    ),
    Bucket("wrong-secret-key", told(secret_key="wrong"), ("does not accept the keys", "secret key")),
    Bucket("wrong-access-key", told(access_key="nobody"), ("does not accept the keys", "access key")),
    Bucket(
        "no-such-bucket", told(bucket="no-such-bucket"), ("no bucket 'no-such-bucket'", "Create the bucket")
    ),
    Bucket("nobody-listens", nobody_listens, ("cannot be reached", "127.0.0.1")),
    Bucket(
        "host-does-not-exist",
        told(endpoint_url="http://store.invalid"),
        ("store.invalid", "cannot be reached"),
    ),
    Bucket("a-web-page", web_page, ("127.0.0.1",)),
    Bucket("conditions-ignored", ignoring_conditions, ("ignores conditions", "conditional writes")),
    Bucket("conditions-unknown", refusing_conditions, ("does not know", "501", "conditional writes")),
    Bucket("session-unknown", told(session_token="token"), ("does not accept the keys",)),
    Bucket("keys-that-end-soon", ending_soon, ("credentials", "less than an hour", "max_hours"), Exit.USAGE),
    Bucket(
        "name-lock-damaged",
        holding(BROKEN_LOCK, b"\xff not JSON"),
        ("lock", BROKEN_LOCK),
        left=(BROKEN_LOCK,),
    ),
)
