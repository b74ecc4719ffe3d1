"""A launcher that dies in the middle of a write must leave what was there: on the real server."""

import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from launcher.storage.s3 import S3Store

pytestmark = pytest.mark.slow

OLD, NEW = b"old" * 1000, b"new!" * 1000


class Died(BaseException):
    """Stands for SIGKILL at this moment."""


@pytest.mark.parametrize(
    "sent", [0, 1, 2000, len(NEW) - 1], ids=["headers alone", "a byte", "half", "all but one"]
)
@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "conditional"])
def test_a_write_that_is_cut_off_changes_nothing(
    embedded_store: S3Store, sent: int, conditional: bool
) -> None:
    etag = embedded_store.put("records/x.json", OLD)

    def die_sending(request: Any, **_: object) -> None:
        """Send the request as it was signed, but not to its end."""
        parts = urlsplit(request.url)
        assert parts.hostname and parts.port
        headers = {"Host": parts.netloc, "Content-Length": str(len(NEW)), **dict(request.headers.items())}
        headers.pop("Expect", None)
        lines = [
            f"PUT {parts.path} HTTP/1.1",
            *(f"{name}: {_text(value)}" for name, value in headers.items()),
        ]
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + NEW[:sent])
        raise Died

    events = embedded_store._client.meta.events
    events.register("before-send.s3.PutObject", die_sending)
    with pytest.raises(Died):
        embedded_store.put("records/x.json", NEW, if_match=etag if conditional else None)
    events.unregister("before-send.s3.PutObject", die_sending)
    # The server works on what it got for a moment longer.
    for _ in range(10):
        assert embedded_store.get("records/x.json") == (OLD, etag)
        time.sleep(0.1)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
