"""The one bucket of the local store: how to reach it, and when it may be used.

Knows boto3 and what the store keeps of itself.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from launcher.storage import weed
from launcher.storage.local_ports import HOST
from launcher.storage.s3_config import S3Config
from launcher.storage.s3_errors import code_of
from launcher.storage.server_state import ServerState

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "retrain"
MARKER = ".ready"
"""An object that is there from the first start on: when it can be read, so can the others."""
ANSWER_SECONDS = 5.0
"""For one request while it starts."""


def bucket_of(state: ServerState, folder: Path) -> S3Config:
    """Return how to reach the bucket of the store in `folder`."""
    return S3Config(
        bucket=BUCKET,
        endpoint_url=f"http://{HOST}:{state.ports.s3}",
        access_key=state.access_key,
        secret_key=state.secret_key,
        folder=folder,
        free_bytes_min=weed.FREE_BYTES_MIN,
    )


def starting_client(config: S3Config) -> "S3Client":
    """Make a client for a server that may not be there yet: it asks once and does not wait long."""
    return config.client(attempts=1, read_seconds=ANSWER_SECONDS)


def make_ready(client: "S3Client") -> bool:
    """Make the bucket where it is not there, and read or write an object; tell whether that worked.

    The server answers before its volumes have joined it: until then every object in them gives HTTP 500.
    """
    try:
        _make_bucket(client)
        _read_marker(client)
    except (BotoCoreError, ClientError):
        return False
    return True


def _make_bucket(client: "S3Client") -> None:
    try:
        client.create_bucket(Bucket=BUCKET)
    except ClientError as exc:
        if code_of(exc) not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
            raise


def _read_marker(client: "S3Client") -> None:
    try:
        client.get_object(Bucket=BUCKET, Key=MARKER)["Body"].read()
    except ClientError as exc:
        if code_of(exc) != "NoSuchKey":
            raise
        client.put_object(Bucket=BUCKET, Key=MARKER, Body=b"ready")
