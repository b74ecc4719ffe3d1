"""The simulator inside an httpx client: no socket, no thread; what never comes is a time-out at once."""

import json
from collections.abc import Iterator

import httpx

from tests.simulators.runpod.server import date_of, events
from tests.simulators.runpod.service import Request, Service
from tests.simulators.runpod.wire import Delivery, Follow


class Transport(httpx.BaseTransport):
    """Hands requests to the service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request. Raises what a real transport would."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        target = request.url.raw_path.decode()
        answer = self._service.answer(Request(request.method, target, headers, request.read()))
        if answer.delivery is Delivery.NEVER:
            raise httpx.ReadTimeout("timed out", request=request)
        if answer.delivery is Delivery.CUT:
            raise httpx.RemoteProtocolError("server disconnected without a response", request=request)
        told = {**answer.headers, "Date": date_of(self._service), "Content-Type": answer.content_type}
        if answer.follow is not None:
            return httpx.Response(200, headers=told, stream=_Lines(answer.follow, request))
        if answer.status == 204:
            return httpx.Response(204, headers={**answer.headers, "Date": told["Date"]})
        body = answer.text if answer.value is None else json.dumps(answer.value).encode()
        return httpx.Response(answer.status, headers=told, content=body)


class _Lines(httpx.SyncByteStream):
    """The lines that there are; then silence, which a client sees as a time-out, or the end of a gone pod."""

    def __init__(self, follow: Follow, request: httpx.Request) -> None:
        self._follow, self._request = follow, request

    def __iter__(self) -> Iterator[bytes]:
        text, _ = events(self._follow, self._follow.after)
        yield text
        if self._follow.pod.exists:
            raise httpx.ReadTimeout("timed out", request=self._request)
