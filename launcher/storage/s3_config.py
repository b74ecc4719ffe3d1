"""Where a bucket is and who asks: the settings of an S3 store, and the clients made from them.

Knows boto3 and the errors; nothing of runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from launcher.errors import UsageError
from launcher.machine.loopback import is_loopback

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_SECONDS = 10
READ_SECONDS = 60
"""Of silence on an open connection, not of a whole transfer."""
ATTEMPTS = 4
"""Of one request, the first included: botocore's standard mode, with its jitter and retry quota."""


@dataclass(frozen=True)
class S3Config:
    """A bucket on AWS, R2, MinIO, SeaweedFS or whatever else speaks S3 with presigned URLs."""

    bucket: str
    endpoint_url: str | None = None
    """The launcher's way to the store; None for AWS."""
    pod_endpoint_url: str | None = None
    """The pods' way, where it is another: the host is part of a signature."""
    region: str = "us-east-1"
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str | None = field(default=None, repr=False)
    credentials_expire_at: datetime | None = None
    """When temporary credentials end, and with them every URL they signed."""
    prefix: str = ""
    """Goes before every key, so that a bucket can be shared."""
    folder: Path | None = None
    """Where the store keeps its data, if that is on this machine."""
    free_bytes_min: int = 0
    """Of that folder's disk: with less the store takes no writes."""

    @classmethod
    def discover(
        cls,
        bucket: str,
        *,
        endpoint_url: str | None = None,
        pod_endpoint_url: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        prefix: str = "",
    ) -> Self:
        """Take keys and region from where AWS tools keep them: environment, profile, SSO, machine role.

        May ask a credential service over the network. Raises UsageError when no keys are found.
        """
        try:
            session = Session(profile=profile)
            credentials = session.get_credentials()
            # Resolved first: it is the refresh that learns when they end.
            keys = credentials.get_frozen_credentials() if credentials is not None else None
            found_region = region or session.get_config_variable("region")
        except BotoCoreError as exc:
            raise UsageError(
                f"The storage keys could not be read ({type(exc).__name__}).",
                next_step="Check AWS_PROFILE and ~/.aws, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            ) from exc
        if keys is None or not keys.access_key or not keys.secret_key:
            raise UsageError(
                "No keys for the bucket were found.",
                next_step="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with your AWS profile.",
            )
        # botocore offers no public name for it.
        ends: datetime | None = getattr(credentials, "_expiry_time", None)
        return cls(
            bucket=bucket,
            endpoint_url=endpoint_url,
            pod_endpoint_url=pod_endpoint_url,
            region=found_region or "us-east-1",
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            session_token=keys.token,
            credentials_expire_at=ends.astimezone(UTC) if ends else None,
            prefix=prefix,
        )

    @property
    def place(self) -> str:
        """Name the store for people: host and port, never a path or query."""
        return urlsplit(self.endpoint_url).netloc.rpartition("@")[2] if self.endpoint_url else "AWS S3"

    def client(self, *, attempts: int = ATTEMPTS, read_seconds: float = READ_SECONDS) -> "S3Client":
        """Make the client that the launcher works with."""
        return self._client(self.endpoint_url, attempts, read_seconds)

    def presigner(self) -> "S3Client":
        """Make a client that only signs, for the host that pods see."""
        return self._client(self.pod_endpoint_url or self.endpoint_url, ATTEMPTS, READ_SECONDS)

    def _client(self, endpoint: str | None, attempts: int, read_seconds: float) -> "S3Client":
        proxies: Mapping[str, str] | None = {} if is_loopback(endpoint) else None
        config = Config(
            signature_version="s3v4",
            connect_timeout=CONNECT_SECONDS,
            read_timeout=read_seconds,
            retries={"mode": "standard", "total_max_attempts": attempts},
            s3={
                "addressing_style": "path" if endpoint else "auto",
                "us_east_1_regional_endpoint": "regional",
            },
            # Not every store knows the newer checksums, and in a presigned PUT they would bind the body.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=32,
            # A proxy cannot reach this machine's loopback; None means the environment's.
            proxies=proxies,
        )
        try:
            return boto3.Session(
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                aws_session_token=self.session_token,
                region_name=self.region,
            ).client("s3", endpoint_url=endpoint, config=config)
        except (BotoCoreError, ValueError) as exc:
            raise UsageError(
                f"The storage settings cannot be used ({type(exc).__name__}).",
                next_step="Check endpoint_url, region and keys of the bucket, and AWS_PROFILE.",
            ) from exc
