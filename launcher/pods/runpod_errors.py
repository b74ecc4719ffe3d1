"""What a failed request to RunPod means: a kind for each decision, and which prove that no pod was made."""

import re
from collections.abc import Iterable
from enum import StrEnum

from pydantic import SecretStr

from launcher.errors import AccountRefused, CapacityError, CreateRefused, PodError
from launcher.judgement import plain
from launcher.pods.runpod_http import Answer, Silence

DETAIL_LENGTH = 300
"""Characters shown of what RunPod says."""
TOLD_LENGTH = 4000
"""Characters looked at of what RunPod says."""
WINDOW = 8
"""A text that shares so many characters in a row with a secret quotes it."""
SHORTEST_SECRET = 4
"""Shorter values, such as "1", are no secrets, and hiding them would make text unreadable."""
_NO_CAPACITY = re.compile(
    r"no (longer any |available )?(instances|machines|gpus)\b|out of (stock|capacity)", re.IGNORECASE
)
_CLOUDFLARE = re.compile(r"\s*error code: 1\d{3}\s*")


class Kind(StrEnum):
    """Why RunPod did not do as asked."""

    BAD_KEY = "bad key"
    LOW_BALANCE = "low balance"
    FORBIDDEN = "forbidden"
    """The key is good, but not for this; of a create: this pool is not for this account."""
    BLOCKED = "blocked"
    """Cloudflare let nothing through: not about the key."""
    NOT_KNOWN = "not known"
    CONFLICT = "conflict"
    WRONG_REQUEST = "wrong request"
    """A rule is broken; or no capacity, told in words that are not known here."""
    NO_CAPACITY = "no capacity"
    RATE_LIMIT = "rate limit"
    TROUBLE = "trouble"
    """5xx."""
    NOT_SENT = "not sent"
    """No connection was made."""
    NO_ANSWER = "no answer"
    UNREADABLE = "unreadable"
    """An answer that is not RunPod's, or not as agreed."""


NO_POD_MADE = frozenset(
    {
        Kind.BAD_KEY,
        Kind.LOW_BALANCE,
        Kind.FORBIDDEN,
        Kind.WRONG_REQUEST,
        Kind.NO_CAPACITY,
        Kind.RATE_LIMIT,
        Kind.NOT_SENT,
    }
)
"""The failures of a create after which no pod exists; after any other one may.

These are RunPod's documented refusals (400, 401, 402, 403, 422, 429): decided before anything is placed. They
count only in RunPod's own words, a problem document whose status is the answer's: a proxy's 403 does not tell
what happened behind it. NOT_SENT counts because nothing left this machine.
Everything else is open: 5xx and silence may come after the pod was placed, an unreadable 2xx even says that
it was. So is 404: a young pod answers 404 for a while, so this may come from looking at what was just made.
409 is not documented for a create.
"""
WORTH_RETRYING = frozenset({Kind.RATE_LIMIT, Kind.TROUBLE, Kind.NOT_SENT, Kind.NO_ANSWER, Kind.UNREADABLE})
"""Failures of a read that may pass within seconds."""

_BY_STATUS = {
    400: Kind.WRONG_REQUEST,
    401: Kind.BAD_KEY,
    402: Kind.LOW_BALANCE,
    403: Kind.FORBIDDEN,
    404: Kind.NOT_KNOWN,
    409: Kind.CONFLICT,
    422: Kind.WRONG_REQUEST,
    429: Kind.RATE_LIMIT,
}
_MEANT_IN_ITS_OWN_WORDS_ONLY = frozenset({Kind.FORBIDDEN, Kind.NOT_KNOWN, Kind.CONFLICT})
"""From anybody else (a proxy, a wrong address) these would be taken for facts about a pod or a key."""
_WORDS = {
    Kind.BAD_KEY: (
        "the API key is not accepted",
        "check RUNPOD_API_KEY, or make a new key in RunPod's console under Settings, API Keys",
    ),
    Kind.LOW_BALANCE: ("the account's balance is too low", "add credit in RunPod's console under Billing"),
    Kind.FORBIDDEN: (
        "the API key or the account has no access to this",
        "use a key that may read and write pods, or another GPU or cloud",
    ),
    Kind.BLOCKED: (
        "Cloudflare blocked the request on its way, which says nothing about the key",
        "try from another network, without VPN or proxy",
    ),
    Kind.NOT_KNOWN: ("RunPod does not know it", "look for it in RunPod's console"),
    Kind.CONFLICT: ("the pod's state does not allow it", "look at the pod in RunPod's console"),
    Kind.WRONG_REQUEST: (
        "RunPod refuses the request",
        "check image, GPU, cloud, disk and data centers",
    ),
    Kind.NO_CAPACITY: (
        "there is no such machine free now",
        "wait, or allow more GPU types, clouds or data centers",
    ),
    Kind.RATE_LIMIT: ("RunPod's rate limit for this account is reached", "wait a little and try again"),
    Kind.TROUBLE: ("RunPod has trouble", "try again in a few minutes; see status.runpod.io"),
    Kind.NOT_SENT: ("no connection to RunPod", "check the network, DNS and proxy settings"),
    Kind.NO_ANSWER: ("RunPod gave no whole answer", "check the network and try again"),
    Kind.UNREADABLE: (
        "the answer is not what RunPod's API is known to give",
        "check that nothing between here and RunPod changes answers; a newer retrain may read it",
    ),
}


class RunpodError(PodError):
    """RunPod failed or refused. `kind` says what to decide by."""

    def __init__(
        self,
        message: str,
        *,
        kind: Kind,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        next_step: str = "",
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.kind = kind
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class RunpodRefused(RunpodError, CreateRefused):
    """RunPod proved that it made no pod."""


class RunpodNotNow(RunpodRefused, CapacityError):
    """Not this machine, or not now: another offer, or a later request, may do."""


class RunpodTurnedAway(RunpodRefused, AccountRefused):
    """No request of this account is served."""


_REFUSALS: dict[Kind, type[RunpodRefused]] = {
    Kind.NO_CAPACITY: RunpodNotNow,
    Kind.FORBIDDEN: RunpodNotNow,
    Kind.RATE_LIMIT: RunpodNotNow,
    Kind.NOT_SENT: RunpodNotNow,
    Kind.BAD_KEY: RunpodTurnedAway,
    Kind.LOW_BALANCE: RunpodTurnedAway,
}


def failure(came: Answer | Silence, what: str, secrets: Iterable[SecretStr], *, create: bool) -> RunpodError:
    """Return the error for a request that did not succeed.

    `what` completes "asking RunPod to …". Nothing of `secrets` is quoted. For a create, the class says
    whether a pod may exist.
    """
    if isinstance(came, Silence):
        kind = Kind.NO_ANSWER if came.sent else Kind.NOT_SENT
        error = _error(kind, what, came.how, create=create, proven=not came.sent)
    else:
        document = came.document()
        own = _is_problem(document, came.status)
        told = scrub(_told(document), secrets) if document else ""
        kind = _kind(came, told, own=own)
        detail = plain(f"HTTP {came.status}: {told}" if told else f"HTTP {came.status}")[:DETAIL_LENGTH]
        error = _error(kind, what, detail, create=create, proven=own and kind in NO_POD_MADE)
        error.status = came.status
        error.retry_after_seconds = came.retry_after_seconds
    return error


def unreadable(what: str, why: str, *, create: bool = False) -> RunpodError:
    """Return the error for a 2xx answer that cannot be read. `why` quotes nothing of it."""
    return _error(Kind.UNREADABLE, what, why, create=create, proven=False)


def scrub(text: str, secrets: Iterable[SecretStr]) -> str:
    """Return `text` with all that quotes a secret, whole or in part, replaced."""
    hidden = [False] * len(text)
    for secret in (each.get_secret_value() for each in secrets):
        if len(secret) < SHORTEST_SECRET:
            continue
        width = min(WINDOW, len(secret))
        for start in range(len(text) - width + 1):
            if text[start : start + width] in secret:
                hidden[start : start + width] = [True] * width
    marked = "".join("\0" if hide else character for character, hide in zip(text, hidden, strict=True))
    return re.sub("\0+", "[hidden]", marked)


def _error(kind: Kind, what: str, detail: str, *, create: bool, proven: bool) -> RunpodError:
    reason, step = _WORDS[kind]
    message = f"asking RunPod to {what}: {reason} ({detail})"
    if create and not proven:
        message += "; a pod may have been made all the same"
    error = RunpodError
    if create and proven:
        error = _REFUSALS.get(kind, RunpodRefused)
    return error(message, kind=kind, next_step=step)


def _kind(answer: Answer, told: str, *, own: bool) -> Kind:
    if answer.status >= 500:
        return Kind.TROUBLE
    if _CLOUDFLARE.fullmatch(answer.content[:100].decode("latin-1")):
        return Kind.BLOCKED
    kind = _BY_STATUS.get(answer.status, Kind.UNREADABLE)
    if kind in _MEANT_IN_ITS_OWN_WORDS_ONLY and not own:
        return Kind.UNREADABLE
    if answer.status == 400 and _NO_CAPACITY.search(told):
        return Kind.NO_CAPACITY
    return kind


def _is_problem(document: dict[str, object] | None, status: int) -> bool:
    """Whether an answer's content is RunPod's own word on this status."""
    if document is None or type(document.get("status")) is not int:
        return False
    texts = (document.get("title"), document.get("detail"))
    return document["status"] == status and all(isinstance(text, str) for text in texts)


def _told(document: dict[str, object]) -> str:
    """Return what a problem document says to people."""
    errors = document.get("errors")
    texts = [document.get("detail") or document.get("title"), *(errors if isinstance(errors, list) else [])]
    return "; ".join(text for text in texts if isinstance(text, str) and text)[:TOLD_LENGTH]
