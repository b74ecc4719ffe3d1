"""The Store of runs: one bucket over boto3, the same code for AWS, R2, MinIO and SeaweedFS.

Knows boto3 and the Store Protocol; keys and contents mean nothing to it.
"""

import base64
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import parse_qs, urlsplit

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import SecretStr
from s3transfer.futures import TransferFuture
from s3transfer.subscribers import BaseSubscriber
from urllib3.exceptions import HTTPError

from job.contract.manifest import Link
from launcher.errors import ObjectMissing, StorageError
from launcher.ports import Stored
from launcher.storage.s3_config import ATTEMPTS, READ_SECONDS, S3Config
from launcher.storage.s3_errors import is_skewed, no_store, translate, was_resent
from launcher.storage.s3_reading import Reading

LINK_SECONDS_MAX = 7 * 24 * 3600
"""What SigV4 allows a presigned URL."""
PART_BYTES = 16 << 20
PARTS_AT_ONCE = 8
"""Of all files that go up together. Parts are read as they are sent, so none of them is in memory."""
_AWS = (BotoCoreError, ClientError, HTTPError)
"""botocore lets some of urllib3's errors through while a body is read."""


class _Ended(BaseSubscriber):
    """Tells which of several uploads ended, whole or not, in the order of their ends."""

    def __init__(self, key: str, ended: SimpleQueue[tuple[str, TransferFuture]]) -> None:
        self._key = key
        self._ended = ended

    def on_done(self, future: TransferFuture, **_: Any) -> None:
        """Be told by s3transfer, in a thread of its own."""
        self._ended.put((self._key, future))


class S3Store:
    """A bucket, as `launcher.ports.Store` describes it. Safe to share between threads."""

    def __init__(
        self, config: S3Config, *, attempts: int = ATTEMPTS, read_seconds: float = READ_SECONDS
    ) -> None:
        """`attempts` and `read_seconds` are how patient it is with a store that does not answer."""
        self.config = config
        self._client = config.client(attempts=attempts, read_seconds=read_seconds)
        apart = config.pod_endpoint_url not in (None, config.endpoint_url)
        # A client of its own costs half a second: only where pods see another host.
        self._presigner = config.presigner() if apart else self._client

    def get(self, key: str) -> tuple[bytes, str]:
        """Return a small object's content and ETag. Raises ObjectMissing."""
        try:
            answer = self._client.get_object(Bucket=self.config.bucket, Key=self._full(key))
            return answer["Body"].read(), _etag(answer, self.config, doing=f"read {key}")
        except _AWS as exc:
            raise translate(exc, self.config, doing=f"read {key}") from exc

    def put(self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False) -> str:
        """Write a small object and return its ETag. Raises PreconditionFailed when the condition fails.

        A conditional write whose answer was lost is sent again by botocore and then meets its own first
        copy. Such a refusal, or no answer at all, is settled by reading: an object that holds exactly `data`
        is ours. That asks of callers what they do anyway: to put something of their own (a nonce, a holder)
        into what they race for. A refusal of a request that was sent once is final.

        Content-MD5 goes along: without it SeaweedFS takes a request whose sender died between its headers and
        its body for a whole one, and replaces the object by an empty one.
        """
        if if_match is not None and if_absent:
            raise ValueError("if_match and if_absent exclude each other")
        condition: dict[str, Any] = {}
        if if_match is not None:
            condition["IfMatch"] = if_match
        if if_absent:
            condition["IfNoneMatch"] = "*"
        try:
            answer = self._client.put_object(
                Bucket=self.config.bucket, Key=self._full(key), Body=data, ContentMD5=_md5(data), **condition
            )
            return _etag(answer, self.config, doing=f"write {key}")
        except _AWS as exc:
            error = translate(exc, self.config, doing=f"write {key}", conditional=bool(condition))
            ambiguous = was_resent(exc) if isinstance(exc, ClientError) else True
            if condition and ambiguous:
                etag = self._etag_if_holds(key, data)
                if etag is not None:
                    return etag
            raise error from exc

    def delete(self, key: str) -> None:
        """Remove an object; one that is absent is no error."""
        try:
            self._client.delete_object(Bucket=self.config.bucket, Key=self._full(key))
        except _AWS as exc:
            error = translate(exc, self.config, doing=f"delete {key}")
            if not isinstance(error, ObjectMissing):
                raise error from exc

    def list(self, prefix: str) -> Sequence[Stored]:
        """Return every object below `prefix`, in order of key."""
        found: list[Stored] = []
        pages = self._client.get_paginator("list_objects_v2")
        try:
            for page in pages.paginate(Bucket=self.config.bucket, Prefix=self._full(prefix)):
                found.extend(
                    Stored(
                        key=item["Key"].removeprefix(self.config.prefix),
                        size=item["Size"],
                        etag=item["ETag"],
                        modified_at=item["LastModified"].astimezone(UTC),
                    )
                    for item in page.get("Contents", ())
                )
        except _AWS as exc:
            raise translate(exc, self.config, doing=f"list {prefix or 'the bucket'}") from exc
        return sorted(found, key=lambda stored: stored.key)

    def upload(self, path: Path, key: str) -> None:
        """Write a file of any size, large ones in parallel parts; the object appears whole or not at all."""
        self.upload_all({key: path})

    def upload_all(self, files: Mapping[str, Path]) -> None:
        """Write files of any size, side by side; each object appears whole or not at all.

        The first that fails ends the others, each after the part that it is sending.
        """
        transfer = TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=PARTS_AT_ONCE,
            # The CRT client does not reach endpoints on loopback.
            preferred_transfer_client="classic",
        )
        ended: SimpleQueue[tuple[str, TransferFuture]] = SimpleQueue()
        with create_transfer_manager(self._client, transfer) as manager:
            for key, path in files.items():
                told = _Ended(key, ended)
                manager.upload(str(path), self.config.bucket, self._full(key), subscribers=[told])
            for _ in files:
                key, future = ended.get()
                try:
                    future.result()
                except _AWS as exc:
                    raise translate(exc, self.config, doing=f"upload {key}") from exc
                except KeyError as exc:
                    # boto3's transfer looks for the ETag of each part in the answer.
                    raise no_store(self.config, doing=f"upload {key}") from exc

    def download(self, key: str, path: Path, *, offset: int = 0) -> Iterator[int]:
        """Append the object's content from byte `offset` on to `path`; yield bytes written as they come.

        What `path` holds beyond `offset` is cut off. While the store is silent, 0 is yielded now and then.
        Large objects come in parallel ranges, in order. What breaks off is taken up where it was, pinned to
        the ETag of the first answer: an object that changes meanwhile, or holds fewer than `offset` bytes, is
        an IntegrityError, never a mixture.
        Nothing pins one call to the next: verify what several put together. Raises ObjectMissing, and OSError
        for the local disk.
        """
        with path.open("ab") as file:
            if file.tell() < offset:
                raise ValueError(f"{path.name} holds fewer than {offset} bytes")
            file.truncate(offset)
            with closing(Reading(self._client, self.config, key).chunks(offset)) as chunks:
                for chunk in chunks:
                    file.write(chunk)
                    # Who is told of bytes finds them in the file.
                    file.flush()
                    yield len(chunk)

    def now(self) -> datetime:
        """Return the time by the store's clock in whole seconds: the `Date` of a list of one key."""
        try:
            answer: Any = self._client.list_objects_v2(
                Bucket=self.config.bucket, Prefix=self.config.prefix, MaxKeys=1
            )
        except _AWS as exc:
            # A refusal because the clocks differ is the very answer.
            if not is_skewed(exc):
                raise translate(exc, self.config, doing="ask for the time") from exc
            answer = exc.response
        return date_of(answer, self.config)

    def presign_get(self, key: str, *, expires_at: datetime) -> Link:
        """Return a link to read an object, valid until `expires_at` or as long as the credentials are."""
        return self._presign("get_object", {"Key": self._full(key)}, expires_at)

    def presign_put(self, key: str, *, expires_at: datetime, create_only: bool = False) -> Link:
        """Return a link to write an object; `create_only` signs `If-None-Match: *` into it."""
        condition = {"IfNoneMatch": "*"} if create_only else {}
        return self._presign("put_object", {"Key": self._full(key), **condition}, expires_at)

    def _presign(self, method: str, parameters: dict[str, str], expires_at: datetime) -> Link:
        if self.config.session_token and self.config.credentials_expire_at is None:
            raise StorageError(
                "The keys are temporary, and nothing says when they end, so no link can be signed.",
                next_step="Set AWS_CREDENTIAL_EXPIRATION to their end (ISO 8601), or use keys that last.",
            )
        until = min(expires_at, self.config.credentials_expire_at or expires_at)
        # A signature counts whole seconds from a whole second.
        seconds = min(int(until.timestamp()) - int(time.time()), LINK_SECONDS_MAX)
        if seconds < 1:
            raise StorageError(
                "A link to the store would have ended before it was made.",
                next_step="Renew the storage keys, or check this machine's clock.",
            )
        url = self._presigner.generate_presigned_url(
            method, Params={"Bucket": self.config.bucket, **parameters}, ExpiresIn=seconds
        )
        # The signature counts from a clock reading of its own, a second later at times: the URL itself
        # says what holds, and never more than was asked.
        return Link(url=SecretStr(url), expires_at=min(end_of(url), until).replace(microsecond=0))

    def _etag_if_holds(self, key: str, data: bytes) -> str | None:
        try:
            held, etag = self.get(key)
        except StorageError:
            return None
        return etag if held == data else None

    def _full(self, key: str) -> str:
        return self.config.prefix + key


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _etag(answer: Any, config: S3Config, *, doing: str) -> str:
    """Return the ETag of an answer. Raises StorageError when there is none: a web server says 200, too."""
    if "ETag" not in answer:
        raise no_store(config, doing=doing)
    return str(answer["ETag"])


def date_of(answer: Any, config: S3Config) -> datetime:
    """Return the `Date` header of an answer, in UTC. Raises StorageError when there is none."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return parsedate_to_datetime(headers["date"]).astimezone(UTC)
    except (KeyError, ValueError) as exc:
        raise StorageError(
            f"{config.place} does not say what time it is.",
            next_step="Check for a proxy that drops the Date header.",
        ) from exc


def end_of(url: str) -> datetime:
    """Return when a SigV4 URL stops to hold, by the store's clock."""
    query = parse_qs(urlsplit(url).query)
    signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return signed + timedelta(seconds=int(query["X-Amz-Expires"][0]))
