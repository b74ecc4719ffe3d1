"""Reads one object in ranges that come side by side, and hands them over in order.

One connection to a store far away brings a fraction of what the line can carry. In order, because then what
is on the disk is always a beginning of the object: whoever is killed half way goes on from there. s3transfer
reads in ranges too, but not from an offset on.
Knows boto3; keys and contents mean nothing to it.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from launcher.errors import IntegrityError, StorageError
from launcher.storage.s3_config import S3Config
from launcher.storage.s3_errors import status_of, translate

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHUNK_BYTES = 1 << 20
RANGE_BYTES = 8 << 20
RANGES_AHEAD = 5
"""Ranges that may wait to be handed over: memory stays below RANGE_BYTES × RANGES_AHEAD = 40 MiB."""
RESUMES = 5
"""Of a range that breaks off, as long as none of them brings a byte."""
RESUME_SECONDS = 1.0
SILENT_SECONDS = 120.0
"""A range of which nothing came for so long is not asked for again: one request may take minutes to fail."""
SIGN_SECONDS = 2.0
"""How often who waits for a range is told that nothing came."""
_RANGE_NOT_SATISFIABLE = 416
_AWS = (BotoCoreError, ClientError, HTTPError)
"""botocore lets some of urllib3's errors through while a body is read."""


class _Stopped(Exception):
    """Nobody waits for this range any more."""


class Reading:
    """One object, pinned to the ETag of the first answer."""

    def __init__(self, client: "S3Client", config: S3Config, key: str) -> None:
        self._client = client
        self._config = config
        self._key = key
        self._etag: str | None = None
        self._size = 0
        self._stopped = threading.Event()

    def chunks(self, offset: int) -> Generator[bytes]:
        """Yield the content from byte `offset` on. Raises StorageError and its subclasses.

        While the store is silent nothing is yielded now and then, so that whoever reads may stop.
        A range that breaks off is taken up where it was. An object that changes meanwhile, or holds fewer
        than `offset` bytes, is an IntegrityError.
        """
        try:
            body = self._open(offset, offset + RANGE_BYTES)
        except _AWS as exc:
            raise self._translated(exc) from exc
        if body is None:
            return
        first_end = min(offset + RANGE_BYTES, self._size)
        if first_end == self._size:
            yield from self._range(offset, first_end, body)
            return
        pool = ThreadPoolExecutor(RANGES_AHEAD, thread_name_prefix="range")
        try:
            starts = iter(range(first_end, self._size, RANGE_BYTES))
            coming: deque[Future[list[bytes]]] = deque()
            self._ask(pool, coming, starts)
            yield from self._range(offset, first_end, body)
            while coming:
                while not wait([coming[0]], timeout=SIGN_SECONDS).done:
                    yield b""
                chunks = coming.popleft().result()
                self._ask(pool, coming, starts)
                yield from chunks
        finally:
            # Whoever closes this generator finds no thread at work when it returns.
            self._stopped.set()
            pool.shutdown(cancel_futures=True)

    def _ask(
        self, pool: ThreadPoolExecutor, coming: "deque[Future[list[bytes]]]", starts: Iterator[int]
    ) -> None:
        while len(coming) < RANGES_AHEAD and (start := next(starts, None)) is not None:
            end = min(start + RANGE_BYTES, self._size)
            coming.append(pool.submit(self._whole_range, start, end))

    def _whole_range(self, start: int, end: int) -> list[bytes]:
        return [chunk for chunk in self._range(start, end) if chunk]

    def _range(self, position: int, end: int, body: Any = None) -> Iterator[bytes]:
        """Yield the bytes from `position` to before `end`, from `body` as long as it lasts."""
        resumes, heard_at = 0, time.monotonic()
        while position < end:
            if self._stopped.is_set():
                raise _Stopped
            broken_off: Exception | None = None
            try:
                body = body or self._open(position, end)
                with closing(body):
                    while chunk := body.read(CHUNK_BYTES):
                        position += len(chunk)
                        resumes = 0
                        yield chunk
                        heard_at = time.monotonic()  # what the reader took is no silence of the store
                        if self._stopped.is_set():
                            raise _Stopped
            except _AWS as exc:
                # An answer with a status is final.
                if isinstance(exc, ClientError):
                    raise self._translated(exc) from exc
                broken_off = exc
            body = None
            if position >= end:
                return
            if resumes >= RESUMES or time.monotonic() - heard_at > SILENT_SECONDS:
                raise self._given_up(broken_off) from broken_off
            resumes += 1
            yield b""
            self._stopped.wait(RESUME_SECONDS * resumes)

    def _given_up(self, broken_off: Exception | None) -> Exception:
        """Return the error for a range that stays incomplete, also where no answer says that it is."""
        if broken_off is not None:
            return self._translated(broken_off)
        return StorageError(
            f"{self._config.place} ends its answers before their end; could not read {self._key}.",
            next_step="Check for a proxy that cuts answers off.",
        )

    def _open(self, start: int, end: int) -> Any:
        """Ask for the bytes from `start` to before `end`; None when there are none left.

        The first answer says how large the object is and which version it has.
        """
        pin: dict[str, Any] = {} if self._etag is None else {"IfMatch": self._etag}
        try:
            answer = self._client.get_object(
                Bucket=self._config.bucket,
                Key=self._config.prefix + self._key,
                Range=f"bytes={start}-{end - 1}",
                **pin,
            )
        except ClientError as exc:
            if status_of(exc) == _RANGE_NOT_SATISFIABLE:
                self._refuse_if_shorter(start)
                return None
            if self._etag is not None and status_of(exc) in (404, 412):
                raise IntegrityError(
                    f"{self._key} changed while it was read.", next_step="Read it again from the start."
                ) from exc
            raise
        if self._etag is None:
            if "ContentRange" not in answer:
                raise StorageError(
                    f"{self._config.place} does not give parts of objects; could not read {self._key}.",
                    next_step="Check for a proxy that drops the Range header.",
                )
            self._etag = answer["ETag"]
            self._size = int(answer["ContentRange"].rpartition("/")[2])
        return answer["Body"]

    def _refuse_if_shorter(self, start: int) -> None:
        head = self._client.head_object(Bucket=self._config.bucket, Key=self._config.prefix + self._key)
        if head["ContentLength"] != start or self._etag not in (None, head["ETag"]):
            raise IntegrityError(
                f"{self._key} has {head['ContentLength']} bytes, fewer than were read before.",
                next_step="Read it again from the start.",
            )

    def _translated(self, exc: Exception) -> Exception:
        return translate(exc, self._config, doing=f"read {self._key}")
