"""One request to RunPod and what came of it, as a value. Knows httpx, decides nothing.

An httpx error knows its request, and with it the key and the body. So none leaves this module, not even as
the context of another: failures are returned, and raised where no `except` is open.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from launcher.ports import Clock

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
"""For a whole answer, and for a silence within it."""
MAX_BYTES = 32 << 20
"""Of one answer: a page of ten thousand pods, or 5,000 long log lines."""
_BEFORE_SENDING = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""No connection to RunPod was made: refused, name not found, TLS not agreed on, no way through the proxy."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. Its content may quote what was sent, so it is never shown."""

    status: int
    content: bytes = field(repr=False)
    content_type: str = ""
    retry_after_seconds: float | None = None
    date: datetime | None = None
    """By the server's clock, to the second."""

    def document(self) -> dict[str, object] | None:
        """Return the content as a JSON object, None if it is none."""
        try:
            value = json.loads(self.content)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class Silence:
    """No whole answer came."""

    sent: bool
    """Whether RunPod may have received the request."""
    how: str
    """What happened, in a few words without addresses."""


@dataclass(frozen=True)
class Call:
    """A request. Its content holds secrets in clear."""

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: bytes | None = field(default=None, repr=False)
    seconds: float = ANSWER_SECONDS
    quiet_seconds: float | None = None
    """For an answer without end: what came until nothing new came for so long is the answer."""


def exchange(client: httpx.Client, clock: Clock, call: Call) -> Answer | Silence:
    """Send one request, once. Takes twice the call's seconds at most: a silence may begin late."""
    until = clock.monotonic() + call.seconds
    timeout = httpx.Timeout(call.quiet_seconds or call.seconds, connect=CONNECT_SECONDS)
    try:
        with client.stream(
            call.method,
            call.path,
            params=dict(call.params),
            headers=dict(call.headers),
            content=call.content,
            timeout=timeout,
        ) as response:
            content = _read(response, clock, until, live=call.quiet_seconds is not None)
            if isinstance(content, Silence):
                return content
            return Answer(
                response.status_code,
                content,
                response.headers.get("content-type", ""),
                _retry_after(response.headers),
                _date(response.headers.get("date", "")),
            )
    except _BEFORE_SENDING as error:
        return Silence(sent=False, how=type(error).__name__)
    except (httpx.HTTPError, httpx.StreamError) as error:
        return Silence(sent=True, how=type(error).__name__)


def _read(response: httpx.Response, clock: Clock, until: float, *, live: bool) -> bytes | Silence:
    """Read a body: whole, or of a live one what is there until it falls silent."""
    content = bytearray()
    try:
        for chunk in response.iter_bytes():
            content += chunk
            late = clock.monotonic() > until
            if not late and len(content) <= MAX_BYTES:
                continue
            if live:
                break
            return Silence(sent=True, how="the answer does not end" if late else "the answer is too large")
    except httpx.ReadTimeout as error:
        if not live:
            return Silence(sent=True, how=type(error).__name__)
    return bytes(content)


def _retry_after(headers: httpx.Headers) -> float | None:
    """Return how many seconds to wait. Retry-After is a number or a date by the server's clock."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    moment, now = _date(value), _date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (moment - now).total_seconds()) if moment else None


def _date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
