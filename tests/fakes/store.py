"""A Store in memory, with a clock that tests set and faults that they ask for.

Links are `fake://get/KEY?...` and `fake://put/KEY?...`; `request` answers them as an S3 server would. A key
that nobody wrote, a link that nobody signed and an expired one are refused, as on the real thing.
"""

import hashlib
import hmac
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pydantic import SecretStr

from job.contract.manifest import Link
from launcher.errors import IntegrityError, ObjectMissing, PreconditionFailed, StorageError
from launcher.ports import Stored

START = datetime(2026, 1, 1, tzinfo=UTC)
LINK_LIFE_MAX = timedelta(days=7)


@dataclass(frozen=True)
class _Object:
    data: bytes
    etag: str
    modified_at: datetime


class FakeStore:
    """`launcher.ports.Store` without a network. Safe to share between threads.

    Fault knobs: `fail(n)`, `lose_answers(n)`, `break_downloads(n, after=...)`, `corrupt(key)`, `advance(s)`,
    `deliver_again(prefix, n)`, `credentials_expire_at`. `calls` counts the calls by method, also those that
    failed.
    """

    def __init__(self, *, at: datetime = START, chunk_bytes: int = 1 << 16) -> None:
        self.at = at
        """The store's time; presigning uses it too."""
        self.chunk_bytes = chunk_bytes
        self.credentials_expire_at: datetime | None = None
        self.calls: dict[str, int] = {}
        self._objects: dict[str, _Object] = {}
        self._versions = 0
        self._secret = secrets.token_bytes(16)
        self._failures = 0
        self._error: StorageError | None = None
        self._lost = 0
        self._breaks = 0
        self._break_after = 0
        self._taken: list[tuple[str, bytes]] = []
        self._lock = threading.RLock()

    # Fault knobs.

    def fail(self, calls: int = 1, *, error: StorageError | None = None) -> None:
        """Let the next calls fail without effect."""
        self._failures, self._error = calls, error

    def lose_answers(self, writes: int = 1) -> None:
        """Let the next writes and deletes take effect and fail all the same."""
        self._lost = writes

    def break_downloads(self, downloads: int = 1, *, after: int) -> None:
        """Let the next downloads break off after so many bytes."""
        self._breaks, self._break_after = downloads, after

    def corrupt(self, key: str) -> None:
        """Flip a bit of an object behind everyone's back: ETag and time stay."""
        with self._lock:
            old = self._objects[key]
            data = bytes([old.data[0] ^ 1]) + old.data[1:] if old.data else b"?"
            self._objects[key] = _Object(data, old.etag, old.modified_at)

    def deliver_again(self, prefix: str, back: int) -> None:
        """Let the network deliver a write of a pod a second time: the one `back` writes before its last."""
        taken = [item for item in self._taken if item[0].startswith(prefix)]
        if len(taken) > back:
            self._write(*taken[-1 - back])

    def peek(self, key: str) -> bytes | None:
        """Return an object's content, None when there is none; without counting as a call."""
        return self._objects[key].data if key in self._objects else None

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.at += timedelta(seconds=seconds)

    def keys(self) -> list[str]:
        """Return every key there is, without counting as a call."""
        return sorted(self._objects)

    # The Store Protocol.

    def get(self, key: str) -> tuple[bytes, str]:
        with self._lock:
            self._called("get")
            found = self._find(key)
            return found.data, found.etag

    def put(self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> str:
        if if_match is not None and if_absent:
            raise ValueError("if_match and if_absent exclude each other")
        with self._lock:
            self._called("put")
            held = self._objects.get(key)
            if (if_absent and held is not None) or (
                if_match is not None and (held is None or held.etag != if_match)
            ):
                raise PreconditionFailed(f"Somebody else wrote first; did not write {key}.")
            etag = self._write(key, data)
            self._answer_may_be_lost()
            return etag

    def delete(self, key: str) -> None:
        with self._lock:
            self._called("delete")
            self._objects.pop(key, None)
            self._answer_may_be_lost()

    def list(self, prefix: str) -> Sequence[Stored]:
        with self._lock:
            self._called("list")
            return [
                Stored(key=key, size=len(held.data), etag=held.etag, modified_at=held.modified_at)
                for key, held in sorted(self._objects.items())
                if key.startswith(prefix)
            ]

    def upload(self, path: Path, key: str) -> None:
        with self._lock:
            self._called("upload")
            self._write(key, path.read_bytes())
            self._answer_may_be_lost()

    def upload_all(self, files: Mapping[str, Path]) -> None:
        for key, path in files.items():
            self.upload(path, key)

    def download(self, key: str, path: Path, *, offset: int = 0) -> Iterator[int]:
        with path.open("ab") as file:
            if file.tell() < offset:
                raise ValueError(f"{path.name} holds fewer than {offset} bytes")
            file.truncate(offset)
            with self._lock:
                self._called("download")
                data = self._find(key).data
                allowed = len(data)
                if self._breaks:
                    self._breaks -= 1
                    allowed = min(allowed, offset + self._break_after)
            if offset > len(data):
                raise IntegrityError(f"{key} has {len(data)} bytes, fewer than were read before.")
            position = offset
            while position < allowed:
                chunk = data[position : min(position + self.chunk_bytes, allowed)]
                file.write(chunk)
                position += len(chunk)
                yield len(chunk)
            if allowed < len(data):
                raise StorageError(f"The connection broke; could not read {key}.")

    def now(self) -> datetime:
        with self._lock:
            self._called("now")
            return self.at.replace(microsecond=0)

    def presign_get(self, key: str, *, expires_at: datetime) -> Link:
        return self._sign("get", key, expires_at, create_only=False)

    def presign_put(self, key: str, *, expires_at: datetime, create_only: bool = False) -> Link:
        return self._sign("put", key, expires_at, create_only=create_only)

    # What a pod does.

    def request(
        self, method: str, url: str, *, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Answer a request to one of the links: HTTP status and body."""
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        key = unquote(parts.path.removeprefix("/"))
        given = {name.lower(): value for name, value in (headers or {}).items()}
        create_only = query.get("create") == "1"
        until = int(query.get("until", "0"))
        signature = self._signature(parts.netloc, key, until, create_only=create_only)
        with self._lock:
            self._called("request")
            if (
                parts.netloc != method.lower()
                or not hmac.compare_digest(signature, query.get("signature", ""))
                or self.at.timestamp() > until
                or (create_only and given.get("if-none-match") != "*")
            ):
                return 403, b"AccessDenied"
            if method == "PUT":
                if key in self._objects and given.get("if-none-match") == "*":
                    return 412, b"PreconditionFailed"
                self._write(key, content)
                if not create_only:  # a create that comes again is refused
                    self._taken.append((key, content))
                return 200, b""
            return (200, self._objects[key].data) if key in self._objects else (404, b"NoSuchKey")

    def _sign(self, method: str, key: str, expires_at: datetime, *, create_only: bool) -> Link:
        until = min(expires_at, self.credentials_expire_at or expires_at, self.at + LINK_LIFE_MAX)
        if until <= self.at:
            raise StorageError("A link to the store would have ended before it was made.")
        stamp = int(until.timestamp())
        signature = self._signature(method, key, stamp, create_only=create_only)
        url = f"fake://{method}/{quote(key)}?until={stamp}&create={int(create_only)}&signature={signature}"
        return Link(url=SecretStr(url), expires_at=datetime.fromtimestamp(stamp, UTC))

    def _signature(self, method: str, key: str, until: int, *, create_only: bool) -> str:
        text = f"{method} {key} {until} {create_only}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()

    def _called(self, method: str) -> None:
        self.calls[method] = self.calls.get(method, 0) + 1
        if self._failures:
            self._failures -= 1
            raise self._error or StorageError("The store cannot be reached.")

    def _answer_may_be_lost(self) -> None:
        if self._lost:
            self._lost -= 1
            raise StorageError("The store took the write, and its answer was lost.")

    def _find(self, key: str) -> _Object:
        if key not in self._objects:
            raise ObjectMissing(f"No such object; could not read {key}.")
        return self._objects[key]

    def _write(self, key: str, data: bytes) -> str:
        # An ETag is opaque: not a hash, so that nobody comes to rely on one.
        self._versions += 1
        etag = f'"{self._versions:x}-{secrets.token_hex(4)}"'
        self._objects[key] = _Object(bytes(data), etag, self.at)
        return etag
