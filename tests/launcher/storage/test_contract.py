"""What every Store promises: the same tests on the fake and on a real S3 server."""

import hashlib
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from job.contract.manifest import Link
from launcher.errors import IntegrityError, ObjectMissing, PreconditionFailed, StorageError
from launcher.ports import Store
from tests.fakes.store import FakeStore

RACERS = 16
CREATE = {"If-None-Match": "*"}


@dataclass(frozen=True)
class World:
    """A store and the way pods use its links."""

    store: Store
    send: Callable[..., tuple[int, bytes]]
    now: Callable[[], datetime]
    wait: Callable[[float], None]

    def soon(self) -> datetime:
        return self.now() + timedelta(minutes=5)

    def put(self, link: Link, content: bytes, headers: dict[str, str] | None = None) -> int:
        return self.send("PUT", link.url.get_secret_value(), content=content, headers=headers)[0]

    def get(self, link: Link) -> tuple[int, bytes]:
        return self.send("GET", link.url.get_secret_value())


def over_http(
    method: str, url: str, *, content: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    answer = httpx.request(method, url, content=content, headers=headers, trust_env=False)
    return answer.status_code, answer.content


@pytest.fixture(params=["fake", pytest.param("embedded", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        fake = FakeStore(chunk_bytes=1000)
        return World(fake, fake.request, lambda: fake.at, fake.advance)
    store = request.getfixturevalue("embedded_store")
    return World(store, over_http, lambda: datetime.now(UTC), time.sleep)


def test_what_was_put_can_be_got(world: World) -> None:
    etag = world.store.put("a/b.json", b"{}")
    assert world.store.get("a/b.json") == (b"{}", etag)


def test_a_missing_object_is_said_to_be_missing(world: World) -> None:
    with pytest.raises(ObjectMissing):
        world.store.get("nowhere")


def test_a_second_create_is_refused(world: World) -> None:
    world.store.put("lock", b"first", if_absent=True)
    with pytest.raises(PreconditionFailed):
        world.store.put("lock", b"second", if_absent=True)
    assert world.store.get("lock")[0] == b"first"


def test_a_create_with_the_same_content_is_refused_as_well(world: World) -> None:
    world.store.put("lock", b"same", if_absent=True)
    with pytest.raises(PreconditionFailed):
        world.store.put("lock", b"same", if_absent=True)


def test_a_write_needs_the_newest_etag(world: World) -> None:
    first = world.store.put("record", b"one")
    second = world.store.put("record", b"two", if_match=first)
    with pytest.raises(PreconditionFailed):
        world.store.put("record", b"three", if_match=first)
    assert world.store.get("record") == (b"two", second)


def test_a_conditional_write_on_nothing_is_refused(world: World) -> None:
    etag = world.store.put("record", b"one")
    world.store.delete("record")
    with pytest.raises(PreconditionFailed):
        world.store.put("record", b"two", if_match=etag)


def test_both_conditions_at_once_are_a_mistake(world: World) -> None:
    with pytest.raises(ValueError, match="exclude"):
        world.store.put("record", b"", if_match='"x"', if_absent=True)


def test_one_of_many_creators_wins(world: World) -> None:
    assert race(lambda mine: world.store.put("race", mine, if_absent=True)) == world.store.get("race")[0]


def test_one_of_many_writers_wins(world: World) -> None:
    etag = world.store.put("race", b"start")
    assert race(lambda mine: world.store.put("race", mine, if_match=etag)) == world.store.get("race")[0]


def race(write: Callable[[bytes], str]) -> bytes:
    """Let many write at once; return the only winner's content."""

    def attempt(content: bytes) -> bytes | None:
        try:
            write(content)
        except PreconditionFailed:
            return None
        return content

    with ThreadPoolExecutor(RACERS) as pool:
        winners = [won for won in pool.map(attempt, [b"%d" % n for n in range(RACERS)]) if won is not None]
    assert len(winners) == 1
    return winners[0]


def test_deleting_is_idempotent(world: World) -> None:
    world.store.put("gone", b"x")
    world.store.delete("gone")
    world.store.delete("gone")
    assert world.store.list("") == []


def test_a_list_is_in_order_and_below_its_prefix(world: World) -> None:
    for key in ("runs/b/2", "runs/b/10", "runs/a/1", "runs/bc", "other"):
        world.store.put(key, key.encode())
    found = world.store.list("runs/b/")
    assert [stored.key for stored in found] == ["runs/b/10", "runs/b/2"]
    assert [stored.size for stored in found] == [9, 8]
    assert found[0].etag == world.store.get("runs/b/10")[1]
    assert abs(found[0].modified_at - world.store.now()) < timedelta(minutes=1)
    assert len(world.store.list("")) == 5


def test_a_list_has_no_end_at_a_thousand(world: World) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: world.store.put(f"many/{n:04d}", b""), range(1010)))
    assert [stored.key for stored in world.store.list("many/")] == [f"many/{n:04d}" for n in range(1010)]


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 3_000_000])
def test_a_file_comes_back_as_it_went(world: World, tmp_path: Path, size: int) -> None:
    content = secrets.token_bytes(size)
    (tmp_path / "there").write_bytes(content)
    world.store.upload(tmp_path / "there", "file")
    assert sum(world.store.download("file", tmp_path / "back")) == size
    assert (tmp_path / "back").read_bytes() == content


def test_several_files_go_up_together(world: World, tmp_path: Path) -> None:
    contents = {f"several/{size}": secrets.token_bytes(size) for size in (0, 10, 1_000_000)}
    paths = {key: tmp_path / str(number) for number, key in enumerate(contents)}
    for key, path in paths.items():
        path.write_bytes(contents[key])
    world.store.upload_all(paths)
    assert {key: world.store.get(key)[0] for key in contents} == contents


@pytest.mark.parametrize("offset", [0, 1, 1000, 2999, 3000])
def test_a_download_goes_on_where_it_was(world: World, tmp_path: Path, offset: int) -> None:
    content = secrets.token_bytes(3000)
    world.store.put("file", content)
    part = tmp_path / "part"
    part.write_bytes(content[:offset])
    assert sum(world.store.download("file", part, offset=offset)) == 3000 - offset
    assert part.read_bytes() == content


def test_a_download_cuts_off_what_lies_beyond_its_offset(world: World, tmp_path: Path) -> None:
    world.store.put("file", b"0123456789")
    part = tmp_path / "part"
    part.write_bytes(b"01234 is wrong from here")
    list(world.store.download("file", part, offset=5))
    assert part.read_bytes() == b"0123456789"


def test_an_object_that_became_shorter_is_an_error(world: World, tmp_path: Path) -> None:
    world.store.put("file", b"short")
    part = tmp_path / "part"
    part.write_bytes(b"longer than that")
    with pytest.raises(IntegrityError):
        list(world.store.download("file", part, offset=16))


def test_an_offset_beyond_the_local_file_is_a_mistake(world: World, tmp_path: Path) -> None:
    world.store.put("file", b"content")
    with pytest.raises(ValueError, match="fewer than 3 bytes"):
        list(world.store.download("file", tmp_path / "part", offset=3))


def test_downloading_nothing_is_said(world: World, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        list(world.store.download("nowhere", tmp_path / "part"))


def test_time_has_a_zone(world: World) -> None:
    assert abs(world.store.now() - world.now()) < timedelta(minutes=1)


def test_links_write_and_read(world: World) -> None:
    put = world.store.presign_put("out/put me", expires_at=world.soon())
    assert world.put(put, b"one") == 200
    assert world.put(put, b"two") == 200
    assert world.store.get("out/put me")[0] == b"two"
    assert world.get(world.store.presign_get("out/put me", expires_at=world.soon())) == (200, b"two")


def test_a_link_to_nothing_says_so(world: World) -> None:
    assert world.get(world.store.presign_get("nowhere", expires_at=world.soon()))[0] == 404


def test_a_create_only_link_works_once(world: World) -> None:
    link = world.store.presign_put("claim", expires_at=world.soon(), create_only=True)
    assert world.put(link, b"sneaked in") == 403, "the signed condition may be left out"
    assert world.put(link, b"mine", CREATE) == 200
    assert world.put(link, b"late", CREATE) == 412
    assert world.store.get("claim")[0] == b"mine"


def test_a_link_is_good_for_its_key_and_method_alone(world: World) -> None:
    world.store.put("mine", b"1")
    world.store.put("other", b"2")
    url = world.store.presign_get("mine", expires_at=world.soon()).url.get_secret_value()
    last = "1" if url[-1] == "0" else "0"
    assert world.send("GET", url.replace("mine", "other", 1))[0] == 403
    assert world.send("GET", url[:-1] + last)[0] == 403
    assert world.send("PUT", url, content=b"3")[0] == 403
    assert world.store.get("mine")[0] == b"1"


def test_a_link_ends_when_it_says(world: World) -> None:
    world.store.put("mine", b"1")
    link = world.store.presign_get("mine", expires_at=world.now() + timedelta(seconds=3))
    assert world.get(link)[0] == 200
    world.wait((link.expires_at - world.now()).total_seconds() + 1.5)
    assert world.get(link)[0] == 403


def test_a_link_never_promises_more_than_was_asked_in_whole_seconds(world: World) -> None:
    asked = world.now() + timedelta(hours=10, microseconds=123)
    link = world.store.presign_get("mine", expires_at=asked)
    assert timedelta(0) <= asked - link.expires_at < timedelta(seconds=2)
    assert link.expires_at.microsecond == 0


def test_a_link_ends_after_seven_days(world: World) -> None:
    link = world.store.presign_put("mine", expires_at=world.now() + timedelta(days=30))
    assert abs(link.expires_at - world.now() - timedelta(days=7)) < timedelta(seconds=3)


def test_a_link_that_has_ended_is_not_made(world: World) -> None:
    with pytest.raises(StorageError):
        world.store.presign_get("mine", expires_at=world.now() - timedelta(seconds=1))


def test_a_link_does_not_show_its_secret(world: World) -> None:
    link = world.store.presign_put("mine", expires_at=world.soon())
    assert "ignature" in link.url.get_secret_value()
    assert "ignature" not in f"{link} {link!r}"


@pytest.mark.slow
def test_a_large_file_goes_up_in_parts(embedded_store: Store, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(secrets.token_bytes(1 << 20) * 40 + b"end")
    embedded_store.upload(there, "large")
    assert embedded_store.list("large")[0].size == there.stat().st_size
    back = tmp_path / "back"
    chunks = list(embedded_store.download("large", back))
    assert max(chunks) <= 1 << 20
    assert digest(back) == digest(there)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
