"""A list of pods is whole or an error, never silently shorter."""

import json
from typing import Any

import httpx
import pytest

from launcher.pods.runpod_api import MAX_PAGES, TRIES
from launcher.pods.runpod_errors import Kind, RunpodError
from tests.launcher.pods.runpod_script import (
    POD,
    connected,
    ok,
    problem,
)


def paged(pods: list[dict[str, Any]], cursor: str | None, more: bool | None) -> httpx.Response:
    pagination = {"nextCursor": cursor} | ({} if more is None else {"hasNextPage": more})
    return httpx.Response(200, json={"pods": pods, "pagination": pagination})


@pytest.mark.parametrize("name", ["id", "name", "status", "cost", "createdAt"])
def test_a_pod_without_what_decisions_rest_on_is_an_error(name: str) -> None:
    broken = {key: value for key, value in POD.items() if key != name}
    api, _, _ = connected(*[ok_but_wrong({"pods": [POD, broken]})] * TRIES)
    with pytest.raises(RunpodError, match=rf"missing or malformed: pods\.1\.{name}") as caught:
        api.pods()
    assert caught.value.kind is Kind.UNREADABLE


def ok_but_wrong(document: object) -> httpx.Response:
    return httpx.Response(200, json=document)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"pods": null}',
        b'{"pods": {}}',
        b'{"pods": [{"id": "x"',
        b"<html>hello</html>",
        b"\xff\xfe",
        json.dumps({"pods": [POD | {"cost": -1}]}).encode(),
        json.dumps({"pods": [POD | {"id": ""}]}).encode(),
        json.dumps({"pods": [POD | {"status": None}]}).encode(),
        json.dumps({"pods": [POD | {"createdAt": "yesterday"}]}).encode(),
        json.dumps({"pods": [POD], "pagination": "more"}).encode(),
    ],
)
def test_a_list_that_cannot_be_read_is_never_no_pods(content: bytes) -> None:
    api, script, naps = connected(*[httpx.Response(200, content=content)] * TRIES)
    with pytest.raises(RunpodError) as caught:
        api.pods()
    assert caught.value.kind is Kind.UNREADABLE and caught.value.next_step
    assert len(script.requests) == TRIES and len(naps.naps) == TRIES - 1


def test_both_shapes_of_a_list() -> None:
    others = [POD | {"id": f"p{n}"} for n in range(3)]
    api, script, _ = connected(ok({"pods": others}), ok({"pods": []}))
    assert [pod.id for pod in api.pods()] == ["p0", "p1", "p2"]
    assert api.pods() == [] and not script.requests[0].url.query
    for last in (
        paged(others[2:], None, False),
        paged(others[2:], "c9", False),
        paged(others[2:], None, None),
    ):
        api, script, _ = connected(
            paged(others[:1], "c1", True),
            paged(others[:2], "c/2", None),
            last,
            beyond_document=True,
        )
        assert [pod.id for pod in api.pods()] == ["p0", "p1", "p2"]
        assert [dict(request.url.params) for request in script.requests] == [
            {},
            {"cursor": "c1"},
            {"cursor": "c/2"},
        ]


@pytest.mark.parametrize(
    "pages",
    [
        [("c1", True), ("c1", True)],
        [("c1", True), ("c2", True), ("c1", True)],
        [(None, True)],
        [("", True)],
        [(f"c{n}", True) for n in range(MAX_PAGES)],
    ],
)
def test_a_list_that_does_not_end_is_an_error(pages: list[tuple[str | None, bool]]) -> None:
    api, script, _ = connected(*(paged([POD], *page) for page in pages), beyond_document=True)
    with pytest.raises(RunpodError, match="does not end") as caught:
        api.pods()
    assert caught.value.kind is Kind.UNREADABLE and not script.steps


def test_a_failed_page_fails_the_list() -> None:
    api, _, _ = connected(paged([POD], "c1", True), *[problem(500)] * TRIES, beyond_document=True)
    with pytest.raises(RunpodError):
        api.pods()
