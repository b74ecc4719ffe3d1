"""Proof that a pod ends although nobody watches: what an unattended start asks for.

Of two kinds, both in the bucket, so that CI has them, too: the dated result of a live canary, whose pod ended
itself, and the sign of life of a reaper that is deployed somewhere else. Knows the store as a port.
"""

import hashlib
import hmac
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, TypeVar

from pydantic import Field, SecretStr

from job.contract import keys
from job.contract.schema import ContractError, Message, Utc, decode
from launcher.errors import ObjectMissing, UsageError
from launcher.ports import Store

Seconds = Annotated[float, Field(ge=0)]
Dollars = Annotated[float, Field(ge=0)]
M = TypeVar("M", bound=Message)
CI_VARIABLE = "CI"
"""Set by every common CI service."""
FINGERPRINT_LABEL = b"retrain: whose account is this"
FINGERPRINT_DIGITS = 16


class CanaryResult(Message):
    """What a live canary found. Seconds are upper bounds: a look comes now and then."""

    at: Utc
    """By the store's clock."""
    namespace: str
    provider: str
    account: str = ""
    """Fingerprint of the key that rented the pod."""
    image: str
    retrain: str
    """Version of retrain."""
    run_id: str
    offer: str
    location: str
    price_per_hour: Dollars
    ended_itself: bool
    """Whether the pod was gone after its job's last word, and nobody else had asked for its end."""
    own_key: Mapping[str, bool]
    """API → whether it heeded the pod's own key, as far as that was seen."""
    hints: Mapping[str, str]
    """What the pod told of its machine and of what its key can see."""
    seconds: Mapping[str, Seconds]
    """When what was first seen, since the pod was made."""
    charged_seconds: Seconds
    """From the request to the confirmed absence."""
    charged_dollars: Dollars
    """At most: those seconds at the price ceiling."""
    billed_dollars: Dollars | None = None
    """By the provider's own billing, when last asked; None: it told nothing yet."""
    bill_settled: bool = False
    """Whether that counts as its last word."""


class ReaperBeat(Message):
    """A reaper's sign of life, written after each pass that could end pods."""

    at: Utc
    """By the store's clock."""
    previous_at: Utc | None
    """When it came before that with the same key; None for the first time."""
    host: str
    account: str = ""
    """Fingerprint of the key that it ends pods with."""


@dataclass(frozen=True)
class Demand:
    """What counts as proof for a start."""

    namespace: str
    account: str
    """Fingerprint of the key that the start rents with."""
    image: str
    canary_age: timedelta
    """At most."""
    reaper_age: timedelta
    """Of its newest pass, and between that and the one before."""


def is_ci(environment: Mapping[str, str]) -> bool:
    """Whether a CI service runs this: nobody sits before it."""
    return environment.get(CI_VARIABLE, "").lower() not in ("", "0", "false", "no")


def fingerprint(key: SecretStr) -> str:
    """Return 16 hex digits that tell whether two keys are the same, and nothing else of them.

    A one-way function of the key, so it may lie in a bucket. Who has it can only try out keys, and a
    provider's key is random and far too long for that; of a password that a person made up this would be
    no way to keep it.
    """
    digest = hmac.new(FINGERPRINT_LABEL, key.get_secret_value().encode(), hashlib.sha256)
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def keep_canary(store: Store, result: CanaryResult) -> None:
    """Put a canary's result where every start looks for it. Raises StorageError."""
    store.put(keys.canary_key(result.namespace), result.encode())


def note_reaper(store: Store, namespace: str, account: str) -> None:
    """Write the sign of life of a reaper with a key of this fingerprint. Raises StorageError."""
    earlier = _read(store, ReaperBeat, keys.reaper_key(namespace))
    beat = ReaperBeat(
        at=store.now(),
        previous_at=earlier.at if earlier and earlier.account == account else None,
        host=socket.gethostname(),
        account=account,
    )
    store.put(keys.reaper_key(namespace), beat.encode())


def require_proof(store: Store, demand: Demand) -> str:
    """Return in a sentence what proves that a pod ends unattended.

    Raises UsageError with what is missing when nothing does, StorageError when the store does not answer.
    """
    now = store.now()
    canary = _read(store, CanaryResult, keys.canary_key(demand.namespace))
    beat = _read(store, ReaperBeat, keys.reaper_key(demand.namespace))
    no_canary, no_reaper = _canary_lacks(canary, demand, now), _reaper_lacks(beat, demand, now)
    if canary is not None and not no_canary:
        return f"the live canary of {canary.at:%Y-%m-%d} showed that such a pod ends itself"
    if beat is not None and not no_reaper:
        return f"a reaper looks after these pods, last at {beat.at:%H:%M} UTC"
    raise UsageError(
        "nobody would watch this run, and nothing proves that its pod ends without a launcher:"
        f" {no_canary}; {no_reaper}",
        next_step="prove it for a few cents with `retrain doctor --live-canary --cap 0.10`, or deploy"
        " `retrain reap --yes` on another machine (docs/runpod.md); --accept-risk starts all the same",
    )


def _canary_lacks(canary: CanaryResult | None, demand: Demand, now: datetime) -> str:
    """Return why a canary's result is no proof, empty where it is one."""
    if canary is None:
        return "there is no result of a live canary"
    of = f"the live canary of {canary.at:%Y-%m-%d}"
    if not canary.ended_itself:
        return f"{of} found that its pod could not end itself"
    if now - canary.at > demand.canary_age:
        return f"{of} is older than {demand.canary_age.days} days"
    if canary.account != demand.account:
        return f"{of} was flown with another key for RunPod"
    if canary.image != demand.image:
        return f"{of} tried another image"
    return ""


def _reaper_lacks(beat: ReaperBeat | None, demand: Demand, now: datetime) -> str:
    """Return why a reaper's sign of life is no proof, empty where it is one.

    On this very machine it would go down with the launcher; and one pass alone is no schedule.
    """
    if beat is None:
        return "no reaper has shown itself"
    if beat.host == socket.gethostname():
        return "the reaper that showed itself runs on this machine"
    if beat.account != demand.account:
        return "the reaper that showed itself has another key for RunPod"
    if now - beat.at > demand.reaper_age:
        return f"the reaper was last seen at {beat.at:%Y-%m-%d %H:%M} UTC"
    if beat.previous_at is None or beat.at - beat.previous_at > demand.reaper_age:
        return "the reaper was seen once, not on a schedule"
    return ""


def _read(store: Store, kind: type[M], key: str) -> M | None:
    """Return a message, None where there is none that this version reads: then it proves nothing."""
    try:
        return decode(kind, store.get(key)[0])
    except (ObjectMissing, ContractError):
        return None
