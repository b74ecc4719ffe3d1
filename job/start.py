"""Before work: read the manifest, refuse what is not meant for this pod, claim the attempt.

Knows the contract and transfers. Nothing is written but claims.
"""

from collections.abc import Callable
from urllib.parse import urlsplit

from pydantic import SecretStr

from job.clock import Clock
from job.contract import keys
from job.contract.events import decode_log
from job.contract.manifest import Link, RunManifest
from job.contract.reasons import Reason
from job.contract.records import Claim
from job.contract.schema import ContractError, decode
from job.environment import Environment
from job.errors import AlreadyOverError, JobError, NotStartedError, SupersededError
from job.patience import (
    DeniedError,
    ExistsError,
    MissingError,
    Patience,
    TransferError,
    TransientError,
    persist,
)
from job.transfer import Bucket, Transfer

REFUSALS = 4
"""Tries at a manifest that the store refuses: its link was made minutes ago, so a refusal is no accident."""


def read_manifest(
    environment: Environment, transfer: Transfer, clock: Clock, patience: Patience
) -> RunManifest:
    """Fetch the manifest and check that it is meant for now and for this attempt. Raises NotStartedError."""
    link = Link(url=environment.manifest_url, expires_at=environment.deadline)
    try:
        data = persist(lambda: transfer.get(link, "the manifest"), patience, refusals=REFUSALS)
        manifest = decode(RunManifest, data)
    except TransferError as error:
        raise NotStartedError(Reason.STORAGE_FAILED, f"the manifest cannot be fetched: {error}") from None
    except ContractError as error:
        raise NotStartedError(Reason.BAD_INPUT, f"the manifest cannot be read: {error}") from None
    expected = keys.manifest_key(manifest.run_id, manifest.attempt)
    if not _path(environment.manifest_url).endswith(f"/{expected}"):
        raise NotStartedError(
            Reason.BAD_INPUT,
            f"the manifest of attempt {manifest.attempt} of {manifest.run_id} was not found under {expected}",
        )
    if clock.seconds_until(manifest.hard_deadline) <= 0:
        raise NotStartedError(Reason.HARD_DEADLINE, f"the hard deadline {manifest.hard_deadline} has passed")
    return manifest


def claim(
    bucket: Bucket, manifest: RunManifest, pod_id: str, nonce: str, clock: Clock, patience: Patience
) -> int:
    """Claim the attempt for this pod and return the number of its life.

    The claim is a create-only PUT, so of two pods one wins. Who finds its own nonce has won and lost only the
    answer; its own pod id means an earlier life of this container. Raises SupersededError and
    AlreadyOverError.
    """
    for life in keys.lives():
        ours = Claim(
            run_id=manifest.run_id,
            attempt=manifest.attempt,
            life=life,
            at=clock.now(),
            pod_id=pod_id,
            nonce=nonce,
        )
        try:
            persist(_creation(bucket, life, ours), patience)
            return life
        except ExistsError:
            owner = persist(_reading(bucket, life), patience)
        if owner.nonce == nonce:
            return life
        if owner.pod_id != pod_id:
            raise SupersededError(Reason.SUPERSEDED, f"attempt {manifest.attempt} belongs to another pod")
        if _has_last_word(bucket, life, patience):
            raise AlreadyOverError(Reason.SUPERSEDED, f"life {life} of this pod ended the attempt already")
    raise AlreadyOverError(
        Reason.TOO_MANY_LIVES, f"the container was started more than {keys.LIVES_MAX} times"
    )


def _creation(bucket: Bucket, life: int, ours: Claim) -> Callable[[], None]:
    return lambda: bucket.create(keys.claim(life), ours.encode())


def _reading(bucket: Bucket, life: int) -> Callable[[], Claim]:
    def read() -> Claim:
        try:
            return decode(Claim, bucket.get(keys.claim(life)))
        except ContractError as error:
            raise TransientError(f"{keys.claim(life)}: {error}") from None

    return read


def _has_last_word(bucket: Bucket, life: int, patience: Patience) -> bool:
    """Whether a life's log ends with a terminal event; a life that left no log said none."""
    try:
        data = persist(lambda: bucket.get(keys.events(life)), patience, refusals=1)
    except (MissingError, DeniedError):
        return False
    except TransferError as error:
        raise JobError(Reason.STORAGE_FAILED, str(error)) from None
    return any(event.terminal for event in decode_log(data))


def _path(url: SecretStr) -> str:
    return urlsplit(url.get_secret_value()).path
