"""A pod's log, and answers that do not end."""

from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
from pydantic import SecretStr

from launcher.pods.runpod_api import TRIES, RunpodApi
from launcher.pods.runpod_errors import Kind, RunpodError
from launcher.pods.runpod_http import MAX_BYTES
from launcher.pods.runpod_models import (
    LogSource,
)
from tests.launcher.pods.runpod_script import (
    KEY,
    Naps,
    Script,
    connected,
    events,
)

LOG = (
    'id: 2026-06-01T12:02:03Z/1\ndata: {"ts":"2026-06-01T12:02:03Z","source":"container","line":"one"}\n\n'
    ': keep-alive\n\nid: 2\r\ndata: {"ts":null,"source":"audit",\r\ndata: "line":"two\\u2028"}\r\n\r\n'
    "event: note\ndata: not JSON\n\nid: 4\n\nid: 5\n"
)


@pytest.mark.parametrize(
    ("end", "last"),
    [('data: {"line":"five"}\n', "five"), ('data: {"line":"five"}', "five"), ('data: {"li', None)],
)
def test_a_log_is_read_as_far_as_it_got(end: str, last: str | None) -> None:
    api, script, _ = connected(events(LOG + end))
    lines = api.logs("p", source=LogSource.SYSTEM, tail=20)
    assert [(each.line, each.source, each.event_id) for each in lines[:3]] == [
        ("one", LogSource.CONTAINER, "2026-06-01T12:02:03Z/1"),
        ("two\u2028", LogSource.UNKNOWN, "2"),
        ("not JSON", LogSource.UNKNOWN, "2"),
    ]
    assert lines[0].ts == datetime(2026, 6, 1, 12, 2, 3, tzinfo=UTC)
    assert [(each.line, each.event_id) for each in lines[3:]] == ([(last, "5")] if last else [])
    assert script.requests[0].headers["accept"] == "text/event-stream"
    assert dict(script.requests[0].url.params) == {"source": "system", "tail": "20"}


def test_a_log_goes_on_where_it_was_left() -> None:
    api, script, _ = connected(events(""), events(""), events(""))
    assert api.logs("p", after="2026-06-01T12:02:03Z/1") == []
    api.logs("p", since=datetime(2026, 6, 1, 12, tzinfo=UTC))
    api.logs("p", tail=9999)
    first, second, third = script.requests
    assert first.headers["last-event-id"] == "2026-06-01T12:02:03Z/1" and not first.url.query
    assert dict(second.url.params) == {"since": "2026-06-01T12:00:00Z"}
    assert dict(third.url.params) == {"tail": "5000"} and "last-event-id" not in third.headers


class Stream(httpx.SyncByteStream):
    """A body that comes in pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces


def streamed(pieces: Iterator[bytes], kind: str = "text/event-stream; charset=utf-8") -> httpx.Response:
    return httpx.Response(200, headers={"content-type": kind}, stream=Stream(pieces))


def test_a_log_stream_that_falls_silent_has_told_what_it_had() -> None:
    def pieces() -> Iterator[bytes]:
        yield b'data: {"line":"'
        yield b'one"}\n\ndata: {"li'
        raise httpx.ReadTimeout("silence")

    api, _, naps = connected(streamed(pieces()))
    assert [each.line for each in api.logs("p")] == ["one"] and not naps.naps


def test_answers_without_end_are_cut() -> None:
    naps = Naps()

    def chatter() -> Iterator[bytes]:
        while True:
            naps.now += 1
            yield b": ping\n\n"

    script = Script([streamed(chatter()), *[lambda _: streamed(chatter())] * TRIES])
    api = RunpodApi(SecretStr(KEY), clock=naps, transport=httpx.MockTransport(script))
    assert api.logs("p") == [] and naps.now < 40
    with pytest.raises(RunpodError, match="does not end") as caught:
        api.pods()
    # Patience with a read is limited in time, not in tries alone.
    assert caught.value.kind is Kind.NO_ANSWER and naps.now < 140


def test_an_answer_too_large_is_no_answer() -> None:
    def huge(_: httpx.Request) -> httpx.Response:
        return streamed(iter([b'{"pods": []}', b" " * MAX_BYTES]), "application/json")

    api, _, _ = connected(*[huge] * TRIES)
    with pytest.raises(RunpodError, match="too large"):
        api.pods()


def test_a_log_that_is_no_event_stream_is_an_error() -> None:
    api, _, _ = connected(*[httpx.Response(200, html="<p>hello</p>")] * TRIES)
    with pytest.raises(RunpodError, match="no event stream"):
        api.logs("p")
