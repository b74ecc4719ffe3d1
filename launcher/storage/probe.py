"""Whether a bucket keeps what the design asks of it: tried on the bucket itself, for `retrain doctor`.

Knows S3Store and HTTP; leaves nothing behind.
"""

import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx

from job.contract.manifest import Link
from launcher.checkup import Finding, clock_finding, failed
from launcher.errors import PreconditionFailed, StorageError
from launcher.machine.loopback import is_loopback
from launcher.storage.s3 import LINK_SECONDS_MAX, S3Store
from launcher.storage.s3_config import S3Config

PREFIX = "probe/"
LINK_SECONDS = 300
LINK_MARGIN = timedelta(hours=1)
"""By which every link of a run outlives its hard deadline."""
ANSWER_SECONDS = 20.0
_CONDITIONAL = "Use a store with conditional writes (AWS S3, Cloudflare R2, MinIO, SeaweedFS)."
_PRESIGNED = "Check the region of the bucket; use a store with presigned URLs (AWS S3, R2, MinIO, SeaweedFS)."
_CREATE = {"If-None-Match": "*"}


def probe(store: S3Store) -> list[Finding]:
    """Try on the real bucket what runs depend on; about a dozen requests. Never raises StorageError.

    When the store cannot be written at all, that is the only finding.
    """
    prefix = f"{PREFIX}{secrets.token_hex(8)}/"
    try:
        etag = store.put(f"{prefix}plain", b"one")
    except StorageError as error:
        return [Finding("reachable", ok=False, detail=str(error), fix=error.next_step)]
    findings = [Finding("reachable", ok=True, detail=f"{store.config.place}, bucket {store.config.bucket}")]
    checks: tuple[tuple[str, str, Callable[[], tuple[bool | None, str]]], ...] = (
        ("create-only write", _CONDITIONAL, partial(_create_only, store, f"{prefix}once")),
        ("write if unchanged", _CONDITIONAL, partial(_if_match, store, f"{prefix}plain", etag)),
        ("presigned links", _PRESIGNED, partial(_presigned, store, f"{prefix}link")),
        ("create-only link", _PRESIGNED, partial(_presigned_create, store, f"{prefix}claim")),
    )
    try:
        for name, fix, check in checks:
            try:
                ok, detail = check()
            except StorageError as error:
                ok, detail = False, str(error)
            findings.append(Finding(name, ok=ok, detail=detail, fix="" if ok else fix))
        findings.append(_clock(store))
    finally:
        findings.append(_cleaned(store, prefix))
    return findings


def check_credentials(config: S3Config, now: datetime, longest: timedelta) -> Finding:
    """Tell whether links outlive the longest run by an hour. `now` is the store's time. Asks nobody."""
    needed = now + longest + LINK_MARGIN
    ends = now + timedelta(seconds=LINK_SECONDS_MAX)
    if needed > ends:
        return Finding(
            "credentials",
            ok=False,
            detail=f"a link ends after {LINK_SECONDS_MAX // 86400} days, before the longest run",
            fix="shorten runs with budget.max_hours",
        )
    if config.session_token is None:
        return Finding("credentials", ok=True, detail="the keys do not end by themselves")
    if config.credentials_expire_at is None:
        return Finding(
            "credentials",
            ok=False,
            detail="the keys are temporary, and nothing says when they end",
            fix="set AWS_CREDENTIAL_EXPIRATION to their end (ISO 8601), or use keys that last",
        )
    end = f"{config.credentials_expire_at:%Y-%m-%d %H:%M} UTC"
    if config.credentials_expire_at >= needed:
        return Finding("credentials", ok=True, detail=f"temporary, they end at {end}")
    return Finding(
        "credentials",
        ok=False,
        detail=f"they end at {end}; a run may go on until {now + longest:%Y-%m-%d %H:%M} UTC, and its links"
        " must hold an hour longer",
        fix="use keys that last longer, or shorten runs with budget.max_hours",
    )


def require_conditions(store: S3Store) -> None:
    """Refuse a store on which two launchers, or two pods, could both believe to be alone. Four requests.

    Raises StorageError. Leaves nothing behind, where the keys allow it.
    """
    prefix = f"{PREFIX}{secrets.token_hex(8)}/"
    try:
        etag = store.put(f"{prefix}plain", b"one")
        for check in (
            partial(_if_match, store, f"{prefix}plain", etag),
            partial(_create_only, store, f"{prefix}once"),
        ):
            kept, detail = check()
            if not kept:
                raise StorageError(
                    f"bucket {store.config.bucket} at {store.config.place} ignores conditions: {detail}",
                    next_step=_CONDITIONAL,
                )
    finally:
        with suppress(StorageError):
            for name in ("plain", "once"):
                store.delete(prefix + name)


def _create_only(store: S3Store, key: str) -> tuple[bool, str]:
    store.put(key, b"first", if_absent=True)
    try:
        store.put(key, b"second", if_absent=True)
    except PreconditionFailed:
        return True, "a second create is refused"
    return False, "a second create overwrote the first"


def _if_match(store: S3Store, key: str, etag: str) -> tuple[bool, str]:
    newer = store.put(key, b"two", if_match=etag)
    try:
        store.put(key, b"three", if_match=etag)
    except PreconditionFailed:
        return newer != etag, "a write on top of a newer one is refused"
    return False, "a write on top of a newer one was accepted"


def _presigned(store: S3Store, key: str) -> tuple[bool | None, str]:
    content = secrets.token_bytes(1024)
    until = datetime.now(UTC) + timedelta(seconds=LINK_SECONDS)
    put = _send("PUT", store.presign_put(key, expires_at=until), content=content)
    if put is None:
        return None, _unreachable(store)
    if not put.is_success:
        return False, f"PUT answered {put.status_code}"
    got = _send("GET", store.presign_get(key, expires_at=until))
    if got is None or not got.is_success:
        return False, f"GET answered {got.status_code if got is not None else 'nothing'}"
    return got.content == content, "PUT and GET work" if got.content == content else "GET brought other bytes"


def _presigned_create(store: S3Store, key: str) -> tuple[bool | None, str]:
    link = store.presign_put(
        key, expires_at=datetime.now(UTC) + timedelta(seconds=LINK_SECONDS), create_only=True
    )
    bare = _send("PUT", link, content=b"no header")
    if bare is None:
        return None, _unreachable(store)
    if bare.is_success:
        return False, "the signed condition may be left out"
    first = _send("PUT", link, content=b"first", headers=_CREATE)
    if first is None or not first.is_success:
        return False, f"the first create answered {first.status_code if first is not None else 'nothing'}"
    second = _send("PUT", link, content=b"second", headers=_CREATE)
    if second is None or second.is_success:
        return False, "a second create overwrote the first"
    return True, f"a second create is refused ({second.status_code})"


def _clock(store: S3Store) -> Finding:
    before = datetime.now(UTC)
    try:
        theirs = store.now()
    except StorageError as error:
        return failed("clock", error)
    ours = before + (datetime.now(UTC) - before) / 2
    return clock_finding("clock", ours, theirs, "the store")


def _cleaned(store: S3Store, prefix: str) -> Finding:
    with suppress(StorageError):
        for stored in store.list(prefix):
            store.delete(stored.key)
        if not store.list(prefix):
            return Finding("list and delete", ok=True, detail="nothing of the check is left")
    return Finding(
        "list and delete",
        ok=False,
        detail=f"objects of this check are left below {prefix}",
        fix="Let the keys list and delete in this bucket; docs/storage.md has the policy.",
    )


def _send(
    method: str, link: Link, *, content: bytes | None = None, headers: dict[str, str] | None = None
) -> httpx.Response | None:
    """Use a link as a pod would; None when nobody answers. httpx's errors may quote it: they end here."""
    url = link.url.get_secret_value()
    try:
        with httpx.Client(timeout=ANSWER_SECONDS, trust_env=not is_loopback(url)) as client:
            return client.request(method, url, content=content, headers=headers)
    except httpx.HTTPError:
        return None


def _unreachable(store: S3Store) -> str:
    if store.config.pod_endpoint_url is None:
        return "the store did not answer a presigned request"
    return "pod_endpoint_url does not answer from this machine; pods may still reach it"
