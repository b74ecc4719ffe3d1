"""What a failure means, whether a pod may exist after it, when it is tried again; that it shows no secret."""

import logging
import re
import socket
import threading
import traceback
from dataclasses import dataclass

import httpx
import pytest
from pydantic import SecretStr

from launcher.errors import AccountRefused, CapacityError, CreateRefused, PodError
from launcher.pods.runpod_api import TRIES, RunpodApi
from launcher.pods.runpod_errors import Kind, RunpodError, scrub
from tests.launcher.pods.runpod_script import KEY, LINK, POD, REQUEST, Step, connected, ok, problem

FULL = (
    "There are no longer any instances available with the requested specifications. "
    "Please refresh and try again."
)
HTML = "<html><body><h1>Bad Gateway</h1></body></html>"
LEAKY = f"you sent {KEY} and env.RETRAIN_MANIFEST={LINK}, or {KEY[5:25]} and {LINK[-20:]}"


@dataclass(frozen=True)
class Case:
    """An answer, what it means; whether it proves that no pod was made, and whether a read tries again."""

    answer: Step
    kind: Kind
    refused: bool = False
    again: bool = False


def text(status: int, content: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, text=content, headers=headers)


CASES = {
    "400 rule": Case(problem(400, "disk is too large"), Kind.WRONG_REQUEST, refused=True),
    "400 capacity": Case(problem(400, FULL), Kind.NO_CAPACITY, refused=True),
    "400 other capacity": Case(problem(400, "No instances found."), Kind.NO_CAPACITY, refused=True),
    "400 of a proxy": Case(text(400, HTML), Kind.WRONG_REQUEST),
    "401": Case(problem(401), Kind.BAD_KEY, refused=True),
    "401 without words": Case(text(401, ""), Kind.BAD_KEY),
    "402": Case(problem(402, "balance"), Kind.LOW_BALANCE, refused=True),
    "403": Case(problem(403), Kind.FORBIDDEN, refused=True),
    "403 of Cloudflare": Case(text(403, "error code: 1010"), Kind.BLOCKED),
    "403 of a proxy": Case(text(403, HTML), Kind.UNREADABLE, again=True),
    "403 with another status": Case(
        httpx.Response(403, json={"title": "No", "status": 500, "detail": "x"}), Kind.UNREADABLE, again=True
    ),
    "404": Case(problem(404), Kind.NOT_KNOWN),
    "409": Case(problem(409), Kind.CONFLICT),
    "422": Case(problem(422, "Request validation failed."), Kind.WRONG_REQUEST, refused=True),
    "429": Case(problem(429, Retry_After="3"), Kind.RATE_LIMIT, refused=True, again=True),
    "429 of a proxy": Case(text(429, "slow down"), Kind.RATE_LIMIT, again=True),
    "500": Case(problem(500), Kind.TROUBLE, again=True),
    "500 about capacity": Case(problem(500, FULL), Kind.TROUBLE, again=True),
    "502 HTML": Case(text(502, HTML), Kind.TROUBLE, again=True),
    "503 of Cloudflare": Case(text(503, "error code: 1020"), Kind.TROUBLE, again=True),
    "302": Case(text(302, "", location="https://elsewhere.example"), Kind.UNREADABLE, again=True),
    "200 empty": Case(text(200, ""), Kind.UNREADABLE, again=True),
    "200 HTML": Case(text(200, HTML), Kind.UNREADABLE, again=True),
    "200 truncated": Case(text(200, '{"id": "7h9k'), Kind.UNREADABLE, again=True),
    "200 without id": Case(httpx.Response(200, json={"name": "x"}), Kind.UNREADABLE, again=True),
    "connection refused": Case(httpx.ConnectError("refused"), Kind.NOT_SENT, refused=True, again=True),
    "no connection in time": Case(httpx.ConnectTimeout("slow"), Kind.NOT_SENT, refused=True, again=True),
    "proxy refuses": Case(httpx.ProxyError("407"), Kind.NOT_SENT, refused=True, again=True),
    "no answer in time": Case(httpx.ReadTimeout("slow"), Kind.NO_ANSWER, again=True),
    "sending too slow": Case(httpx.WriteTimeout("slow"), Kind.NO_ANSWER, again=True),
    "connection lost": Case(httpx.ReadError("reset"), Kind.NO_ANSWER, again=True),
    "connection lost sending": Case(httpx.WriteError("reset"), Kind.NO_ANSWER, again=True),
    "answer cut off": Case(httpx.RemoteProtocolError("incomplete"), Kind.NO_ANSWER, again=True),
    "not HTTP": Case(httpx.LocalProtocolError("illegal"), Kind.NO_ANSWER, again=True),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@each_case
def test_a_create_is_sent_once_and_refused_only_when_proven(case: Case) -> None:
    api, script, naps = connected(case.answer)
    with pytest.raises(PodError) as caught:
        api.create(REQUEST)
    error = caught.value
    assert isinstance(error, RunpodError) and error.kind is case.kind
    assert isinstance(error, CreateRefused) is case.refused
    passes = case.kind in (Kind.NO_CAPACITY, Kind.FORBIDDEN, Kind.RATE_LIMIT, Kind.NOT_SENT)
    assert isinstance(error, CapacityError) is (case.refused and passes)
    turned_away = case.kind in (Kind.BAD_KEY, Kind.LOW_BALANCE)
    assert isinstance(error, AccountRefused) is (case.refused and turned_away)
    assert ("may have been made" in str(error)) is not case.refused
    assert "retrain-a-1" in str(error) and error.next_step
    assert len(script.requests) == 1 and not naps.naps


@each_case
def test_a_read_is_tried_again_when_that_may_help(case: Case) -> None:
    api, script, naps = connected(*[case.answer] * TRIES)
    if case.kind is Kind.NOT_KNOWN:
        assert api.pod("p") is None
    else:
        with pytest.raises(RunpodError) as caught:
            api.pod("p")
        assert caught.value.kind is case.kind and caught.value.next_step
        assert not isinstance(caught.value, CreateRefused) and "may have been made" not in str(caught.value)
    tries = TRIES if case.again else 1
    assert len(script.requests) == tries and len(naps.naps) == tries - 1


@each_case
def test_a_termination_is_sent_once(case: Case) -> None:
    api, script, naps = connected(case.answer)
    if case.kind is Kind.NOT_KNOWN:
        api.terminate("p")
    else:
        with pytest.raises(RunpodError) as caught:
            api.terminate("p")
        assert not isinstance(caught.value, CreateRefused)
    assert len(script.requests) == 1 and not naps.naps


def test_a_port_that_nobody_listens_at_proves_that_no_pod_was_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with (
        RunpodApi(SecretStr(KEY), base_url=f"http://127.0.0.1:{port}/v2") as api,
        pytest.raises(CreateRefused) as caught,
    ):
        api.create(REQUEST)
    assert isinstance(caught.value, RunpodError) and caught.value.kind is Kind.NOT_SENT
    assert_secret(shown(caught.value))


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 201 Created\r\nContent-Length: 900\r\n\r\n{", b"who are you?\n"]
)
def test_a_connection_that_ends_after_the_request_proves_nothing(answer: bytes) -> None:
    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            received = b""
            while LINK.encode() not in received:
                received += connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/v2"
        with (
            RunpodApi(SecretStr(KEY), base_url=address) as api,
            pytest.raises(RunpodError, match="may have been made") as caught,
        ):
            api.create(REQUEST)
        thread.join()
    assert caught.value.kind is Kind.NO_ANSWER and not isinstance(caught.value, CreateRefused)
    assert_secret(shown(caught.value))


def test_a_read_succeeds_after_trouble() -> None:
    api, _, naps = connected(problem(500), httpx.ReadTimeout("slow"), ok(POD))
    assert api.pod(POD["id"]) is not None
    assert len(naps.naps) == 2 and all(0 <= nap <= 8 for nap in naps.naps)


@pytest.mark.parametrize(
    ("headers", "nap"),
    [
        ({"Retry_After": "12"}, 12),
        ({"Retry_After": "0"}, 0),
        ({"Retry_After": "Mon, 01 Jun 2026 12:00:20 GMT", "Date": "Mon, 01 Jun 2026 12:00:00 GMT"}, 20),
        ({"Retry_After": "Mon, 01 Jun 2026 11:00:00 GMT", "Date": "Mon, 01 Jun 2026 12:00:00 GMT"}, 0),
        ({"Retry_After": "Mon, 01 Jun 2020 11:00:00 GMT"}, 0),
    ],
)
def test_a_wait_that_was_asked_for_is_kept(headers: dict[str, str], nap: float) -> None:
    api, _, naps = connected(problem(429, **headers), ok({"pods": []}))
    assert api.pods() == [] and naps.naps == [nap]


@pytest.mark.parametrize("value", ["-1", "soon", "1e9", "", "Mon, 99 Jun 2026 12:00:20 GMT", "1.5"])
def test_a_wait_that_makes_no_sense_is_not_kept(value: str) -> None:
    api, _, naps = connected(text(429, "", **{"Retry-After": value}), ok({"pods": []}))
    assert api.pods() == [] and 0 <= naps.naps[0] <= 8


def test_who_shall_wait_for_long_is_told_so_at_once() -> None:
    api, script, naps = connected(problem(429, Retry_After="3600"), problem(429, Retry_After="3600"))
    for ask in (api.pods, lambda: api.create(REQUEST)):
        with pytest.raises(RunpodError) as caught:
            ask()
        assert caught.value.retry_after_seconds == 3600 and caught.value.status == 429
    assert len(script.requests) == 2 and not naps.naps


def test_waiting_for_a_read_has_an_end() -> None:
    api, script, naps = connected(*[problem(429, Retry_After="30")] * TRIES)
    with pytest.raises(RunpodError):
        api.pods()
    assert sum(naps.naps) <= 60 and len(script.requests) == 3


def test_what_runpod_says_is_passed_on_in_one_short_line() -> None:
    long = httpx.Response(
        422,
        json={"title": "No", "status": 422, "detail": "two\nlines\x1b[31m", "errors": ["a: b", 7, "x" * 900]},
    )
    api, _, _ = connected(long)
    with pytest.raises(CreateRefused, match=re.escape("HTTP 422: two lines [31m; a: b; xxx")) as caught:
        api.create(REQUEST)
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


LEAKS: dict[str, Step] = {
    "problem": problem(422, LEAKY),
    "capacity": problem(400, f"no instances for {LEAKY}"),
    "errors": httpx.Response(
        400, json={"title": LEAKY, "status": 400, "detail": LEAKY, "errors": [LEAKY, LINK]}
    ),
    "trouble": problem(500, LEAKY),
    "HTML": text(502, f"<html>{LEAKY}</html>"),
    "text": text(401, LEAKY),
    "redirect": text(302, LEAKY, location=f"https://elsewhere.example/?key={KEY}"),
    "malformed": httpx.Response(201, json=POD | {"cost": LEAKY, "createdAt": LINK}),
    "truncated": text(201, f'{{"env": {{"A": "{LEAKY}'),
    "another pod": httpx.Response(201, json=POD | {"name": LEAKY, "id": LINK}),
    "refused": httpx.ConnectError(LEAKY),
    "silent": httpx.ReadTimeout(LEAKY),
    "lost": httpx.RemoteProtocolError(f"illegal header line: b'Authorization: {LEAKY}'"),
}


def shown(error: BaseException) -> str:
    """All that a log, a traceback with locals, or a debugger of the chain would show of an error."""
    parts: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None:
            continue
        assert not isinstance(each, httpx.HTTPError | ValueError), "the library's error knows the request"
        parts += [str(each), repr(each), repr(vars(each)), *traceback.format_exception(each)]
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if "/launcher/" in frame.f_code.co_filename and "/tests/" not in frame.f_code.co_filename:
                parts += [repr(value) for value in frame.f_locals.values()]
        pending += [each.__cause__, each.__context__]
    return "\n".join(parts)


def assert_secret(seen: str) -> None:
    for secret in (KEY, LINK.partition("?")[2]):
        for start in range(len(secret) - 12):
            assert secret[start : start + 12] not in seen, seen


@pytest.mark.parametrize("answer", LEAKS.values(), ids=LEAKS.keys())
def test_no_error_shows_the_key_or_the_environment(answer: Step, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api, _, _ = connected(answer)
    with pytest.raises(RunpodError) as caught:
        api.create(REQUEST)
    assert_secret(shown(caught.value))
    assert_secret(caplog.text)


@pytest.mark.parametrize(
    "name", ["problem", "errors", "trouble", "HTML", "text", "refused", "silent", "lost"]
)
def test_no_error_of_a_read_shows_the_key(name: str, caplog: pytest.LogCaptureFixture) -> None:
    # A read knows nothing of environments: RunPod would have to quote one unasked.
    caplog.set_level(logging.DEBUG)
    api, _, _ = connected(*[LEAKS[name]] * (2 * TRIES + 1))
    for ask in (api.pods, lambda: api.terminate("p"), lambda: api.logs("p")):
        with pytest.raises(RunpodError) as caught:
            ask()
        seen = shown(caught.value) + caplog.text
        assert not any(KEY[start : start + 12] in seen for start in range(len(KEY) - 12)), seen


def test_nothing_at_rest_shows_the_key_or_the_environment() -> None:
    api, _, _ = connected()
    assert_secret(f"{api!r} {vars(api)!r} {REQUEST!r} {REQUEST} {REQUEST.model_dump()}")


def test_hiding_takes_parts_of_secrets_and_leaves_the_rest() -> None:
    secrets = [SecretStr("abcdefghijklmnop"), SecretStr("1"), SecretStr("word")]
    assert scrub("1 x cdefghijkl y word", secrets) == "1 x [hidden] y [hidden]"
    assert scrub("abcdefg", secrets) == "abcdefg"
    assert scrub("", secrets) == ""
