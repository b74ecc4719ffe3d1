"""The only HTTP: presigned GET and PUT, streamed. Knows links; its errors never hold a URL.

Errors say what a caller decides by: try again (TransientError), refused (DeniedError), not there
(MissingError), there already (ExistsError). Causes are cut off (`from None`): a chained httpx error may quote
the URL.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO

import httpx

from job.contract.manifest import Link, Links
from job.files import CHUNK, Digest, content_md5
from job.patience import DeniedError, ExistsError, MissingError, Patience, TransientError, persist

CONNECT_SECONDS = 15
SILENCE_SECONDS = 60
"""A transfer in which nothing moves for this long has failed."""
SMALL_BYTES = 64 << 20
"""Limit of what is read into memory: event logs, receipts, manifests."""
_BUSY = frozenset({408, 409, 425, 429})


def job_version() -> str:
    """Return the version of this package, as User-Agent and `booted` event show it."""
    try:
        return version("retrain")
    except PackageNotFoundError:
        return "0"


class Transfer:
    """HTTP to presigned links. Every method makes one attempt; `what` names the object in errors. Thread-
    safe.
    """

    def __init__(
        self, store_says: Callable[[datetime], None], *, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._store_says = store_says
        self._client = httpx.Client(
            headers={"User-Agent": f"retrain-job/{job_version()}", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None),
            trust_env=True,
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def get(self, link: Link, what: str) -> bytes:
        """Return a small object."""
        with self._send("GET", link, what) as response:
            data = b""
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > SMALL_BYTES:
                    raise DeniedError(f"{what}: larger than {SMALL_BYTES} bytes")
            return data

    def put(self, link: Link, what: str, data: bytes, *, only_create: bool = False) -> None:
        """Write a small object; with `only_create` raise ExistsError when it is there already."""
        headers = {"Content-MD5": content_md5(data)} | ({"If-None-Match": "*"} if only_create else {})
        with self._send("PUT", link, what, headers=headers, content=data):
            pass

    def put_file(self, link: Link, what: str, path: Path, content: Digest) -> None:
        """Write a file whose digest is known; a store that checks Content-MD5 refuses a damaged body."""
        headers = {"Content-MD5": content.content_md5, "Content-Length": str(content.bytes)}
        with path.open("rb") as source, self._send("PUT", link, what, headers=headers, content=_read(source)):
            pass

    def download(self, link: Link, what: str, part: Path, size: int) -> None:
        """Append what is missing of an object of `size` bytes to `part`; raise TransientError on a short
        answer.
        """
        have = part.stat().st_size if part.exists() else 0
        if have >= size > 0:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self._send("GET", link, what, headers=headers) as response:
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            have = have if resumed else 0
            with part.open("ab" if resumed else "wb") as target:
                for chunk in response.iter_raw():
                    target.write(chunk)
                    have += len(chunk)
                    if have > size:
                        return
        if have < size:
            raise TransientError(f"{what}: the answer ended after {have} of {size} bytes")

    @contextmanager
    def _send(
        self,
        method: str,
        link: Link,
        what: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
    ) -> Iterator[httpx.Response]:
        try:
            with self._client.stream(
                method, link.url.get_secret_value(), headers=headers, content=content
            ) as response:
                self._note_date(response)
                _check(method, what, response.status_code)
                yield response
        except httpx.InvalidURL:
            raise DeniedError(f"{method} {what}: the link is no URL") from None
        except httpx.UnsupportedProtocol:
            raise DeniedError(f"{method} {what}: the link is no http or https URL") from None
        except httpx.HTTPError as error:
            raise TransientError(f"{method} {what}: {type(error).__name__}") from None

    def _note_date(self, response: httpx.Response) -> None:
        try:
            moment = parsedate_to_datetime(response.headers["date"])
        except (KeyError, ValueError):
            return
        if moment.tzinfo is not None:
            self._store_says(moment)


class Bucket:
    """What this attempt may read and write, by key relative to its prefix."""

    def __init__(self, transfer: Transfer, links: Links) -> None:
        self._transfer = transfer
        self._links = links

    def get(self, key: str) -> bytes:
        """Return a small object."""
        return self._transfer.get(self._links.get[key], key)

    def put(self, key: str, data: bytes) -> None:
        """Write a small object."""
        self._transfer.put(self._links.put[key], key, data)

    def create(self, key: str, data: bytes) -> None:
        """Write a small object unless it exists (ExistsError)."""
        self._transfer.put(self._links.create[key], key, data, only_create=True)

    def put_file(self, key: str, path: Path, content: Digest) -> None:
        """Write a file whose digest is known."""
        self._transfer.put_file(self._links.put[key], key, path, content)

    def link(self, key: str) -> Link:
        """Return the link to read `key`."""
        return self._links.get[key]


def fetch_verified(
    transfer: Transfer, link: Link, what: str, target: Path, *, size: int, sha256: str, patience: Patience
) -> bool:
    """Bring an object to `target`, resuming after network trouble. Return False when its content is not as
    told.

    A wrong content is fetched once more from the start: the first copy may have been damaged on the way.
    """
    part = target.with_name(target.name + ".part")
    for _ in range(2):
        part.unlink(missing_ok=True)
        persist(lambda: transfer.download(link, what, part, size), patience)
        if part.exists() and part.stat().st_size == size and _sha256(part) == sha256:
            part.replace(target)
            return True
    part.unlink(missing_ok=True)
    return False


def _check(method: str, what: str, status: int) -> None:
    if 200 <= status < 300:
        return
    said = f"{method} {what}: HTTP {status}"
    if status == httpx.codes.NOT_FOUND:
        raise MissingError(said)
    if status == httpx.codes.PRECONDITION_FAILED:
        raise ExistsError(said)
    if status >= 500 or status in _BUSY:
        raise TransientError(said)
    raise DeniedError(f"{said}: the link has expired or does not allow this")


def _read(source: BinaryIO) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
