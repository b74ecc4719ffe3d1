"""What botocore's errors mean to a person. Knows botocore and the errors.

No text of the server's or of botocore's is passed on: both may quote a URL, and a presigned one is a secret.
"""

import shutil
from typing import TypeGuard

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 (botocore's own, no relative of the builtin)
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from urllib3.exceptions import HTTPError

from launcher.errors import ObjectMissing, PreconditionFailed, StorageError
from launcher.storage.s3_config import S3Config

_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_WRONG_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"})
_ENDED_KEYS = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})
_FORBIDDEN = frozenset({"AccessDenied", "403", "AllAccessDisabled", "Forbidden"})
_LOST = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "OperationAborted", "409"})
_FULL = frozenset({"InsufficientStorage", "507", "QuotaExceeded", "XMinioStorageFull"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
_SERVER_FAULT = 500
_NOT_IMPLEMENTED = 501


def code_of(exc: BaseException) -> str:
    """Return the S3 error code, or an HTTP status where the answer had no body; empty for other errors."""
    return str(exc.response.get("Error", {}).get("Code", "")) if isinstance(exc, ClientError) else ""


def status_of(exc: BaseException) -> int:
    """Return the HTTP status, 0 where there was no answer."""
    if not isinstance(exc, ClientError):
        return 0
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def was_resent(exc: ClientError) -> bool:
    """Tell whether this is the answer to a request that botocore had sent before."""
    return int(exc.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0


def is_skewed(exc: BaseException) -> TypeGuard[ClientError]:
    """Tell whether the store refused because this machine's clock differs from its own."""
    return code_of(exc) in _SKEWED


def translate(exc: Exception, config: S3Config, *, doing: str, conditional: bool = False) -> StorageError:
    """Say in one sentence why `doing` (as in "read runs/x/record.json") failed, and what to do about it.

    Of a `conditional` request, a refusal of its condition becomes PreconditionFailed.
    """
    if isinstance(exc, ClientError):
        return _of_answer(exc, config, doing=doing, conditional=conditional)
    if isinstance(exc, NoCredentialsError | PartialCredentialsError):
        return StorageError(
            f"There are no keys to {doing}.", next_step="Set access key and secret key of the bucket."
        )
    if isinstance(exc, ParamValidationError):
        return StorageError(
            f"The bucket name {config.bucket!r} or a key is not valid; could not {doing}.",
            next_step="Check the name of the bucket.",
        )
    # On a full disk weed may stall or hang up, too; one that is not there at all is another matter.
    if not isinstance(exc, EndpointConnectionError) and (full := full_disk(config, doing=doing)):
        return full
    if isinstance(exc, ConnectionError | HTTPClientError | HTTPError | IncompleteReadError):
        return StorageError(
            f"{config.place} cannot be reached; could not {doing} ({type(exc).__name__}).",
            next_step="Check the network and endpoint_url, then try again.",
        )
    if isinstance(exc, BotoCoreError):
        return StorageError(f"Could not {doing} ({type(exc).__name__}).", next_step="Run retrain doctor.")
    raise exc


def _of_answer(exc: ClientError, config: S3Config, *, doing: str, conditional: bool) -> StorageError:
    code, status = code_of(exc), status_of(exc)
    if code == "NoSuchBucket":
        return StorageError(
            f"{config.place} has no bucket {config.bucket!r}; could not {doing}.",
            next_step="Create the bucket, or correct its name or endpoint_url.",
        )
    # A write under If-Match to an object that is gone answers 404 on AWS: the condition does not hold either.
    if conditional and (code in _LOST or status in (404, 409, 412)):
        return PreconditionFailed(
            f"Somebody else wrote first; did not {doing}.", next_step="Read it again, then decide again."
        )
    if code in _MISSING or status == 404:
        return ObjectMissing(f"No such object at {config.place}; could not {doing}.")
    if code in _SKEWED:
        return StorageError(
            f"This machine's clock and that of {config.place} differ too much; could not {doing}.",
            next_step="Set the clock of this machine (NTP), then try again.",
        )
    if code in _ENDED_KEYS:
        return StorageError(
            f"The temporary keys have ended; could not {doing}.", next_step="Log in again, then run it again."
        )
    if code in _WRONG_KEYS:
        return StorageError(
            f"{config.place} does not accept the keys ({code}); could not {doing}.",
            next_step="Check access key, secret key and region of the bucket.",
        )
    if code in _FORBIDDEN or status == 403:
        return StorageError(
            f"The keys may not {doing} in bucket {config.bucket!r} ({code}).",
            next_step="Let them list, read, write and delete there; docs/storage.md has the policy.",
        )
    if status == _NOT_IMPLEMENTED:
        return StorageError(
            f"{config.place} does not know what was asked of it (HTTP 501, {code}); could not {doing}.",
            next_step="Use a store with conditional writes and presigned URLs: `retrain doctor` tries both.",
        )
    if full := full_disk(config, doing=doing):
        return full
    if code in _FULL:
        return StorageError(
            f"The store is full ({code}); could not {doing}.", next_step="Make room, then try again."
        )
    if status >= _SERVER_FAULT:
        return StorageError(
            f"{config.place} failed (HTTP {status}, {code}); could not {doing}.",
            next_step="Try again in a minute; the store may be overloaded or its disk full.",
        )
    return StorageError(
        f"{config.place} refused to {doing} (HTTP {status}, {code}).", next_step="Run retrain doctor."
    )


def no_store(config: S3Config, *, doing: str) -> StorageError:
    """Return what to say of an answer that lacks what S3 promises, such as the ETag of what was written."""
    return full_disk(config, doing=doing) or StorageError(
        f"{config.place} does not answer as an S3 store does; could not {doing}.",
        next_step="Check endpoint_url: it must be the store's S3 endpoint, not its web page.",
    )


def full_disk(config: S3Config, *, doing: str) -> StorageError | None:
    """Return that the disk under a store on this machine is full; None where it is not, or is not known.

    What weed answers then does not tell: mostly HTTP 500, at times 200 with half an answer, or nothing.
    """
    if config.folder is None:
        return None
    try:
        free = shutil.disk_usage(config.folder).free
    except OSError:
        return None
    # It counts as low for up to a minute longer than it is.
    if free >= config.free_bytes_min:
        return None
    return StorageError(
        f"The disk of the local store, {config.folder}, is full ({free >> 20} MiB free); could not {doing}.",
        next_step="Make room there; the store takes writes again within a minute.",
    )
