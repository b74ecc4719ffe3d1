"""Presigned transfers: what is sent, what is tried again, what errors say and do not say."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from job import patience
from job.contract.manifest import Link
from job.contract.reasons import Reason
from job.errors import JobError
from job.files import digest
from job.patience import (
    DeniedError,
    ExistsError,
    MissingError,
    Patience,
    Stop,
    TransferError,
    TransientError,
    persist,
)
from job.transfer import Transfer, fetch_verified
from tests.job.bucket import Bucket

LATER = datetime.now(UTC) + timedelta(hours=1)
ALWAYS = Patience(lambda: 1e9)


@pytest.fixture
def transfer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Transfer]:
    monkeypatch.setattr(patience, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(patience, "LONGEST_WAIT_SECONDS", 0.02)
    made = Transfer(lambda moment: None, silence_seconds=1)
    yield made
    made.close()


def test_files_arrive_whole_and_empty_ones_too(bucket: Bucket, transfer: Transfer, tmp_path: Path) -> None:
    for size in (0, 1, 3 << 20):
        path = tmp_path / f"{size}"
        path.write_bytes(b"\x07" * size)
        transfer.put_file(bucket.link("PUT", "k", LATER), "k", path, digest(path))
        assert bucket.objects["k"] == path.read_bytes()
        assert "Transfer-Encoding" not in bucket.requests[-1].headers, "S3 takes no chunked PUT"
        target = tmp_path / "back"
        assert fetch_verified(
            transfer,
            bucket.link("GET", "k", LATER),
            "k",
            target,
            size=size,
            sha256=sha256(path.read_bytes()).hexdigest(),
            patience=ALWAYS,
        )
        assert target.read_bytes() == path.read_bytes()


def test_a_cut_download_goes_on_where_it_was(bucket: Bucket, transfer: Transfer, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    bucket.objects["k"] = data
    bucket.fault = lambda r: "cut" if r.number <= 2 else None
    link = bucket.link("GET", "k", LATER)
    target = tmp_path / "t"
    assert fetch_verified(
        transfer, link, "k", target, size=len(data), sha256=sha256(data).hexdigest(), patience=ALWAYS
    )
    assert target.read_bytes() == data
    ranges = [request.headers.get("Range") for request in bucket.requests]
    assert ranges[0] is None and len(ranges) == 3
    assert all(wanted and wanted != "bytes=0-" for wanted in ranges[1:])


@pytest.mark.parametrize("stored", [b"other", b"longer than that", b"s"])
def test_wrong_content_is_fetched_twice_and_refused(
    bucket: Bucket, transfer: Transfer, tmp_path: Path, stored: bytes
) -> None:
    bucket.objects["k"] = stored
    asked = Patience(lambda: 1e9 if len(bucket.requests) < 4 else 0)
    try:
        whole = fetch_verified(
            transfer,
            bucket.link("GET", "k", LATER),
            "k",
            tmp_path / "t",
            size=5,
            sha256=sha256(b"right").hexdigest(),
            patience=asked,
        )
    except TransientError:
        whole = False
    assert not whole and not list(tmp_path.glob("t"))


def test_a_damaged_upload_is_refused_by_the_store(bucket: Bucket, transfer: Transfer, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"before")
    known = digest(path)
    path.write_bytes(b"behind")
    with pytest.raises(DeniedError):
        transfer.put_file(bucket.link("PUT", "k", LATER), "k", path, known)
    assert not bucket.objects


def test_create_only_succeeds_once(bucket: Bucket, transfer: Transfer) -> None:
    link = bucket.link("CREATE", "k", LATER)
    transfer.put(link, "k", b"1", only_create=True)
    with pytest.raises(ExistsError):
        transfer.put(link, "k", b"2", only_create=True)
    assert bucket.objects["k"] == b"1"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("503", TransientError), ("403", DeniedError), ("drop", TransientError), (None, MissingError)],
)
def test_errors_have_a_kind_and_no_url(
    bucket: Bucket, transfer: Transfer, fault: str | None, kind: type[TransferError]
) -> None:
    bucket.fault = lambda r: fault
    link = bucket.link("GET", "some/key", LATER)
    with pytest.raises(kind) as caught:
        transfer.get(link, "some/key")
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    assert "127.0.0.1" not in str(caught.value) and "Signature" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://[bad/x?secret=1", "ftp://host/x?secret=1", "http://127.0.0.1:1/x?secret=1"]
)
def test_broken_links_are_not_quoted(transfer: Transfer, url: str) -> None:
    with pytest.raises(TransferError) as caught:
        transfer.get(Link(url=url, expires_at=LATER), "the key")
    assert "secret" not in str(caught.value) and "the key" in str(caught.value)


def test_the_stores_date_is_passed_on(bucket: Bucket) -> None:
    seen: list[datetime] = []
    transfer = Transfer(seen.append)
    transfer.put(bucket.link("PUT", "k", LATER), "k", b"")
    transfer.close()
    assert abs((seen[0] - datetime.now(UTC)).total_seconds()) < 3600


def test_refusals_are_tried_a_few_times_and_trouble_for_ever(transfer: Transfer) -> None:
    calls: list[int] = []

    def refused() -> None:
        calls.append(1)
        raise DeniedError("no")

    with pytest.raises(DeniedError):
        persist(refused, ALWAYS, refusals=3)
    assert len(calls) == 3

    def flaky() -> str:
        calls.append(1)
        if len(calls) < 30:
            raise TransientError("busy")
        return "done"

    assert persist(flaky, ALWAYS) == "done"


def test_a_stop_ends_patience_and_is_what_is_raised(transfer: Transfer) -> None:
    stop = Stop()

    def busy() -> None:
        stop.request(JobError(Reason.STOP_AT, "time is up"))
        stop.request(JobError(Reason.STALLED, "too late to count"))
        raise TransientError("busy")

    with pytest.raises(JobError, match="time is up"):
        persist(busy, Patience(lambda: 1e9, stop))
