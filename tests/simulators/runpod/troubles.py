"""What each trouble looks like to a client."""

import json
from collections.abc import Callable, Mapping

from tests.simulators.runpod.faults import Fault, Trouble
from tests.simulators.runpod.wire import CAPACITY, Answer, Delivery, problem

HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
PROBLEMS: Mapping[Trouble, tuple[int, str]] = {
    Trouble.SERVER_ERROR: (500, "internal error"),
    Trouble.RATE_LIMITED: (429, "rate limit exceeded for the minute window"),
    Trouble.NO_CAPACITY: (400, CAPACITY),
    Trouble.BAD_REQUEST: (400, "request could not be processed"),
    Trouble.NO_BALANCE: (402, "insufficient balance to deploy this pod"),
    Trouble.UNAUTHORIZED: (401, "invalid bearer token"),
    Trouble.FORBIDDEN: (403, "access denied"),
    Trouble.NOT_FOUND: (404, "pod not found"),
    Trouble.CONFLICT: (409, "not possible now"),
}


def cloudflare() -> Answer:
    """Return what Cloudflare says to a client that it takes for a robot."""
    return Answer(403, text=b"error code: 1010", content_type="text/plain; charset=UTF-8")


def instead(fault: Fault, honest: Answer) -> Answer:
    """Return what a client gets instead of the honest answer."""
    if fault.trouble in PROBLEMS:
        status, detail = PROBLEMS[fault.trouble]
        answer = problem(status, detail)
        if status == 429:
            answer.headers["Retry-After"] = str(fault.retry_after_seconds)
        return answer
    if fault.trouble in DISTORTIONS:
        return DISTORTIONS[fault.trouble](fault, honest)
    match fault.trouble:
        case Trouble.BAD_GATEWAY:
            return Answer(502, text=HTML, content_type="text/html")
        case Trouble.CLOUDFLARE:
            return cloudflare()
        case Trouble.TIMEOUT:
            return Answer(0, delivery=Delivery.NEVER)
        case _:
            return Answer(0, delivery=Delivery.CUT)


def _truncated(fault: Fault, honest: Answer) -> Answer:
    whole = json.dumps(honest.value).encode() if honest.value is not None else honest.text
    half = fault.body if fault.body is not None else whole[: len(whole) // 2]
    return Answer(honest.status, text=half, content_type=honest.content_type)


def _empty(fault: Fault, honest: Answer) -> Answer:
    value = honest.value if isinstance(honest.value, dict) else {}
    emptied = {name: [] if isinstance(member, list) else member for name, member in value.items()}
    return Answer(200, text=json.dumps(emptied).encode())


def _malformed(fault: Fault, honest: Answer) -> Answer:
    value = honest.value if isinstance(honest.value, dict) else {}
    other = dict.fromkeys(value) or {"data": None}
    return Answer(200, text=fault.body if fault.body is not None else json.dumps(other).encode())


DISTORTIONS: Mapping[Trouble, Callable[[Fault, Answer], Answer]] = {
    Trouble.TRUNCATED: _truncated,
    Trouble.EMPTY: _empty,
    Trouble.MALFORMED: _malformed,
}
"""What is made of the honest answer. Such a request takes effect."""
