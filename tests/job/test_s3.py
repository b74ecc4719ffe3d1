"""The job's transfers against a real S3 server: what the bucket of these tests pretends, checked."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from job.contract.manifest import Link
from job.files import digest
from job.patience import DeniedError, ExistsError, MissingError, Patience
from job.transfer import Transfer, fetch_verified
from launcher.storage.s3 import S3Store

pytestmark = pytest.mark.slow


@pytest.fixture
def transfer() -> Iterator[Transfer]:
    made = Transfer(lambda moment: None)
    yield made
    made.close()


def later() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=10)


def test_what_the_job_asks_of_s3(embedded_store: S3Store, transfer: Transfer, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    path = tmp_path / "checkpoint"
    path.write_bytes(data)
    transfer.put_file(embedded_store.presign_put("a/b", expires_at=later()), "a/b", path, digest(path))
    link = embedded_store.presign_get("a/b", expires_at=later())
    (tmp_path / "back.part").write_bytes(data[:1000])
    transfer.download(link, "a/b", tmp_path / "back.part", len(data))
    assert (tmp_path / "back.part").read_bytes() == data, "a download goes on in the middle"
    assert fetch_verified(
        transfer,
        link,
        "a/b",
        tmp_path / "back",
        size=len(data),
        sha256=sha256(data).hexdigest(),
        patience=Patience(lambda: 60),
    )
    claim = embedded_store.presign_put("claim", expires_at=later(), create_only=True)
    transfer.put(claim, "claim", b"ours", only_create=True)
    with pytest.raises(ExistsError):
        transfer.put(claim, "claim", b"theirs", only_create=True)
    assert transfer.get(embedded_store.presign_get("claim", expires_at=later()), "claim") == b"ours"
    with pytest.raises(MissingError):
        transfer.get(embedded_store.presign_get("nothing", expires_at=later()), "nothing")


def test_a_damaged_body_is_refused(embedded_store: S3Store, transfer: Transfer, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"before")
    known = digest(path)
    path.write_bytes(b"behind")
    with pytest.raises(DeniedError):
        transfer.put_file(embedded_store.presign_put("damaged", expires_at=later()), "damaged", path, known)
    with pytest.raises(MissingError):
        transfer.get(embedded_store.presign_get("damaged", expires_at=later()), "damaged")


def test_a_tampered_link_is_refused(embedded_store: S3Store, transfer: Transfer) -> None:
    link = embedded_store.presign_put("k", expires_at=later())
    url = link.url.get_secret_value()
    with pytest.raises(DeniedError):
        transfer.put(Link(url=url.replace("/k?", "/other?"), expires_at=later()), "k", b"x")
