"""RunPod's REST API v2: one method for each request that retrain makes.

Reads are tried again, a few times and for two minutes at most. Mutations are sent once: a create that is
repeated may make a second pod, and a terminate whose answer was lost must not turn into "not known". Errors
are `RunpodError`; neither they nor any traceback frame of this module show the key or a pod's environment.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, SecretStr, ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from launcher.machine.clock import SystemClock
from launcher.pods.runpod_client import BASE_URL, connect
from launcher.pods.runpod_errors import WORTH_RETRYING, Kind, RunpodError, failure, unreadable
from launcher.pods.runpod_http import Answer, Call, exchange
from launcher.pods.runpod_log import log_events
from launcher.pods.runpod_models import (
    BillingRow,
    GpuCatalog,
    GpuType,
    LogEvent,
    PodBilling,
    PodPage,
    ReadableLog,
    RentableCloud,
    RunpodPod,
)
from launcher.pods.runpod_request import CreatePod
from launcher.ports import Clock

TRIES = 4
"""Of a read."""
PATIENCE_SECONDS = 60.0
"""After which a read is not tried again."""
CREATE_SECONDS = 60.0
"""For the answer to a create. One that comes later is found by the pod's name."""
LONGEST_WAIT_SECONDS = 30.0
"""Between two tries. Who is told to wait longer gets the error at once; a later pass asks again."""
MAX_PAGES = 500
LOG_TAIL = 5000
"""The most lines that RunPod looks back."""
LOG_QUIET_SECONDS = 5.0
"""A log stream never ends; silent for so long, it has told what it had."""
_BACKOFF = wait_random_exponential(multiplier=0.5, max=8)
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Termination(StrEnum):
    """What RunPod said to the request to end a pod."""

    ACKNOWLEDGED = "acknowledged"
    """204."""
    NOT_KNOWN = "not known"
    """404. Of a young pod this proves nothing."""


class RunpodApi:
    """A client of one account. Use it as a context manager, or close it."""

    def __init__(
        self,
        key: SecretStr,
        *,
        base_url: str = BASE_URL,
        clock: Clock | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Raise UsageError for a key or an address that cannot be used."""
        self._key = key
        self._clock: Clock = clock or SystemClock()
        self._client = connect(key, base_url, transport)
        self._dated: tuple[datetime, float] | None = None
        """What RunPod's clock said in its newest answer, and when that was by our own."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def now(self) -> datetime:
        """Return the time by RunPod's clock: its newest answer's Date, and what went by since."""
        if self._dated is None:
            self.pods()
        if self._dated is None:
            raise unreadable("tell the time", "its answers have no Date")
        said, at = self._dated
        return said + timedelta(seconds=self._clock.monotonic() - at)

    def pods(self) -> list[RunpodPod]:
        """Return every pod of the account, of anybody's making.

        An incomplete or unreadable list is an error. A pod that comes or goes meanwhile may be missing:
        absence from one list proves nothing.
        """
        found: dict[str, RunpodPod] = {}
        cursors = [""]
        while len(cursors) <= MAX_PAGES:
            params = {"cursor": cursors[-1]} if cursors[-1] else {}
            page = self._read(Call("GET", "pods", params), PodPage, "list the pods")
            found.update({pod.id: pod for pod in page.pods})
            cursor = _next_cursor(page)
            if cursor is None:
                return [*found.values()]
            if not cursor or cursor in cursors:
                break
            cursors.append(cursor)
        raise RunpodError(
            f"asking RunPod to list the pods: the list does not end, {len(found)} pods so far",
            kind=Kind.UNREADABLE,
            next_step="try again; a newer retrain may read it",
        )

    def pod(self, pod_id: str) -> RunpodPod | None:
        """Return a pod; None when RunPod does not know it, which of a young pod proves nothing."""
        what = f"show pod {pod_id}"
        try:
            return self._read(Call("GET", _pod_path(pod_id)), RunpodPod, what, lambda pod: pod.id == pod_id)
        except RunpodError as error:
            if error.kind is Kind.NOT_KNOWN:
                return None
            raise

    def create(self, request: CreatePod) -> RunpodPod:
        """Create a pod.

        Raises RunpodRefused when it is proven that none was made: its subclass RunpodNotNow when another
        request may do, RunpodTurnedAway when none will. After any other RunpodError the pod may exist.
        """
        what = f"create pod {request.name}"
        answer = self._send(
            Call(
                "POST",
                "pods",
                headers={"Content-Type": "application/json"},
                content=request.wire(),
                seconds=CREATE_SECONDS,
            ),
            what,
            creates=request,
        )
        pod = _parse(answer, RunpodPod, lambda pod: pod.name == request.name)
        if isinstance(pod, str):
            raise unreadable(what, pod, create=True)
        return pod

    def terminate(self, pod_id: str) -> Termination:
        """Ask once for a pod's end. What this proves is in `Termination`."""
        what = f"end pod {pod_id}"
        try:
            answer = self._send(Call("DELETE", _pod_path(pod_id)), what)
        except RunpodError as error:
            if error.kind is Kind.NOT_KNOWN:
                return Termination.NOT_KNOWN
            raise
        if answer.status != httpx.codes.NO_CONTENT:
            raise unreadable(what, f"HTTP {answer.status}, and only 204 acknowledges it")
        return Termination.ACKNOWLEDGED

    def logs(
        self,
        pod_id: str,
        *,
        source: ReadableLog | None = None,
        tail: int = 100,
        since: datetime | None = None,
        after: str = "",
    ) -> list[LogEvent]:
        """Return what a pod's log holds now, both sources by default. After its end RunPod knows it no more.

        `tail` is how many of the newest lines. Instead of it, `since` is where to begin, `after` the
        `event_id` to go on from. Takes as long as the log talks, at most ANSWER_SECONDS.
        """
        what = f"show the log of pod {pod_id}"
        params: dict[str, str | int] = {"source": source.value} if source else {}
        if since:
            params["since"] = since.astimezone(UTC).isoformat().replace("+00:00", "Z")
        elif not after:
            params["tail"] = max(0, min(tail, LOG_TAIL))
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        call = Call("GET", f"{_pod_path(pod_id)}/logs", params, headers, quiet_seconds=LOG_QUIET_SECONDS)

        def read() -> list[LogEvent]:
            answer = self._send(call, what)
            if not answer.content_type.startswith("text/event-stream"):
                raise unreadable(what, "no event stream")
            return [*log_events(answer.content)]

        return self._retried(read)

    def gpus(
        self, *, cloud: RentableCloud, count: int = 1, min_cuda_version: str | None = None
    ) -> list[GpuType]:
        """Return the GPU types with prices, and what is free for such a pod: advice, no reservation."""
        params: dict[str, str | int] = {"include": "AVAILABILITY", "product": "POD"}
        params |= {"cloud": cloud.value, "count": count}
        if min_cuda_version:
            params["minCudaVersion"] = min_cuda_version
        return [*self._read(Call("GET", "catalog/gpus", params), GpuCatalog, "show its GPU types").gpus]

    def billing(self, pod_id: str, start: datetime, end: datetime) -> list[BillingRow]:
        """Return what a pod cost, by the hour. Both times are widened to full hours."""
        span = {"startTime": start, "endTime": end}
        params: dict[str, str | int] = {
            name: moment.astimezone(UTC).isoformat().replace("+00:00", "Z") for name, moment in span.items()
        }
        params |= {"bucketSize": "hour", "podId": pod_id}
        what = f"show the bill of pod {pod_id}"
        return [*self._read(Call("GET", "billing/pods", params), PodBilling, what).records]

    def _read(
        self, call: Call, model: type[M], what: str, is_asked_for: Callable[[M], bool] = lambda _: True
    ) -> M:
        def read() -> M:
            value = _parse(self._send(call, what), model, is_asked_for)
            if isinstance(value, str):
                raise unreadable(what, value)
            return value

        return self._retried(read)

    def _retried(self, read: Callable[[], T]) -> T:
        until = self._clock.monotonic() + PATIENCE_SECONDS
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=lambda state: state.attempt_number >= TRIES or self._clock.monotonic() >= until,
            wait=_wait,
            sleep=self._clock.sleep,
            reraise=True,
        )
        return retrying(read)

    def _send(self, call: Call, what: str, *, creates: CreatePod | None = None) -> Answer:
        """Send a request once. Raises unless a 2xx came."""
        came = exchange(self._client, self._clock, call)
        if isinstance(came, Answer) and came.date is not None:
            self._dated = (came.date, self._clock.monotonic())
        if isinstance(came, Answer) and 200 <= came.status < 300:
            return came
        secrets = (self._key, *(creates.env.values() if creates else ()))
        raise failure(came, what, secrets, create=creates is not None)


def _parse(answer: Answer, model: type[M], is_asked_for: Callable[[M], bool]) -> M | str:
    """Return the model, or in words why there is none: places in the content, never what stands there."""
    try:
        value = model.model_validate_json(answer.content)
    except ValidationError as error:
        found = error.errors(include_input=False)
        if found[0]["type"] == "json_invalid":
            return "no JSON"
        places = [".".join(map(str, each["loc"])) or "all of it" for each in found]
        return "missing or malformed: " + ", ".join(places[:5])
    return value if is_asked_for(value) else "it shows another pod"


def _next_cursor(page: PodPage) -> str | None:
    """Return where the list goes on, "" when it goes on nobody knows where, None at its end."""
    told = page.pagination
    if told is None or told.has_next_page is False:
        return None
    if told.has_next_page is None:
        return told.next_cursor or None
    return told.next_cursor or ""


def _may_pass(error: BaseException) -> bool:
    return (
        isinstance(error, RunpodError)
        and error.kind in WORTH_RETRYING
        and (error.retry_after_seconds or 0.0) <= LONGEST_WAIT_SECONDS
    )


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    told = error.retry_after_seconds if isinstance(error, RunpodError) else None
    return _BACKOFF(state) if told is None else told


def _pod_path(pod_id: str) -> str:
    """Return a pod's path. An id that would name something else, such as all pods, is refused."""
    if not pod_id.strip("."):
        raise RunpodError(f"{pod_id!r} is not the id of a pod", kind=Kind.WRONG_REQUEST)
    return f"pods/{quote(pod_id, safe='')}"
