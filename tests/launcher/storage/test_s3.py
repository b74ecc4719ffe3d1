"""What S3Store adds to the contract: broken networks, wrong settings, what errors say, what links need."""

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.exceptions import ClientError

from launcher.errors import IntegrityError, PreconditionFailed, StorageError, UsageError
from launcher.machine.loopback import is_loopback
from launcher.storage import s3_reading
from launcher.storage.s3 import S3Store, end_of
from launcher.storage.s3_config import S3Config
from launcher.storage.s3_errors import translate
from tests.launcher.storage.proxy import LossyProxy

CONFIG = S3Config(
    bucket="bucket",
    endpoint_url="http://127.0.0.1:9",
    access_key="AKIAEXAMPLE",
    secret_key="the-secret",
    session_token=None,
)


@pytest.fixture
def soon() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=5)


@pytest.fixture
def proxy(embedded_store: S3Store) -> Iterator[LossyProxy]:
    assert embedded_store.config.endpoint_url is not None
    with LossyProxy(embedded_store.config.endpoint_url).running() as proxy:
        yield proxy


@pytest.fixture
def proxied(embedded_store: S3Store, proxy: LossyProxy) -> S3Store:
    """The embedded store, reached through the proxy."""
    return S3Store(replace(embedded_store.config, endpoint_url=proxy.url))


# A conditional write whose answer is lost.


@pytest.mark.slow
def test_a_create_that_was_sent_twice_is_ours(proxied: S3Store, proxy: LossyProxy) -> None:
    proxy.lose_answers = 1
    etag = proxied.put("lock", b"holder: me", if_absent=True)
    assert [method for method, _ in proxy.requests] == ["PUT", "PUT", "GET"]
    assert proxied.get("lock") == (b"holder: me", etag)


@pytest.mark.slow
def test_an_update_that_was_sent_twice_is_ours(proxied: S3Store, proxy: LossyProxy) -> None:
    first = proxied.put("record", b"one")
    proxy.lose_answers = 1
    second = proxied.put("record", b"two", if_match=first)
    assert proxied.get("record") == (b"two", second)


@pytest.mark.slow
def test_a_create_is_settled_when_no_answer_ever_came(proxied: S3Store, proxy: LossyProxy) -> None:
    proxy.lose_answers = 4
    etag = proxied.put("lock", b"holder: me", if_absent=True)
    assert proxied.get("lock") == (b"holder: me", etag)


@pytest.mark.slow
def test_a_create_that_was_overtaken_between_two_sendings_is_lost(
    proxied: S3Store, embedded_store: S3Store, proxy: LossyProxy
) -> None:
    def overtake() -> None:
        proxy.before_answer = lambda: None
        embedded_store.put("lock", b"holder: somebody else")

    proxy.lose_answers, proxy.before_answer = 1, overtake
    with pytest.raises(PreconditionFailed):
        proxied.put("lock", b"holder: me", if_absent=True)


@pytest.mark.slow
def test_a_plain_refusal_is_not_read_back(proxied: S3Store, proxy: LossyProxy) -> None:
    proxied.put("lock", b"same")
    with pytest.raises(PreconditionFailed):
        proxied.put("lock", b"same", if_absent=True)
    assert [method for method, _ in proxy.requests] == ["PUT", "PUT"]


# Downloads that break off.


@pytest.mark.slow
def test_a_broken_download_goes_on_by_itself(
    proxied: S3Store, proxy: LossyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_reading, "RESUME_SECONDS", 0.0)
    content = secrets.token_bytes(3 << 20)
    proxied.put("file", content)
    proxy.cut_bodies = 3
    assert sum(proxied.download("file", tmp_path / "file")) == len(content)
    assert (tmp_path / "file").read_bytes() == content
    gets = [headers for method, headers in proxy.requests if method == "GET"]
    assert gets[0]["Range"].startswith("bytes=0-")
    assert len({headers["Range"] for headers in gets}) == 4
    assert ["If-Match" in headers for headers in gets] == [False, True, True, True]


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_reading, "RANGE_BYTES", 100_000)
    monkeypatch.setattr(s3_reading, "CHUNK_BYTES", 30_000)
    monkeypatch.setattr(s3_reading, "RESUME_SECONDS", 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize("cuts", [0, 1, 7])
@pytest.mark.parametrize("offset", [0, 99_999, 1_234_567])
def test_ranges_that_break_off_are_put_together_in_order(
    proxied: S3Store, proxy: LossyProxy, tmp_path: Path, cuts: int, offset: int
) -> None:
    content = secrets.token_bytes(1_250_000)
    proxied.put("file", content)
    (tmp_path / "file").write_bytes(content[:offset])
    proxy.cut_bodies = cuts
    assert sum(proxied.download("file", tmp_path / "file", offset=offset)) == len(content) - offset
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.slow
@pytest.mark.usefixtures("small_ranges")
def test_who_stops_half_way_has_a_beginning_and_no_thread(proxied: S3Store, tmp_path: Path) -> None:
    content = secrets.token_bytes(1_250_000)
    proxied.put("file", content)
    counts = proxied.download("file", tmp_path / "file")
    came = sum(next(counts) for _ in range(15))
    counts.close()  # type: ignore[attr-defined]
    assert content.startswith((tmp_path / "file").read_bytes())
    assert (tmp_path / "file").stat().st_size == came
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("range")]


@pytest.mark.slow
@pytest.mark.usefixtures("small_ranges")
def test_an_object_that_changes_between_two_ranges_is_never_mixed(
    proxied: S3Store, embedded_store: S3Store, tmp_path: Path
) -> None:
    content = secrets.token_bytes(1_250_000)
    proxied.put("file", content)
    counts = proxied.download("file", tmp_path / "file")
    next(counts)
    embedded_store.put("file", bytes(len(content)))
    with pytest.raises(IntegrityError, match="changed while it was read"):
        list(counts)
    assert content.startswith((tmp_path / "file").read_bytes())


@pytest.mark.slow
def test_an_object_that_changes_half_way_is_never_mixed(
    proxied: S3Store,
    embedded_store: S3Store,
    proxy: LossyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_reading, "RESUME_SECONDS", 0.0)
    proxied.put("file", b"a" * 10_000)
    proxy.cut_bodies = 1
    proxy.before_answer = lambda: embedded_store.put("file", b"b" * 10_000)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        list(proxied.download("file", tmp_path / "file"))


@pytest.mark.slow
def test_a_download_gives_up_in_the_end(
    proxied: S3Store, proxy: LossyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_reading, "RESUME_SECONDS", 0.0)
    proxied.put("file", b"x")
    proxy.cut_bodies = 100
    with pytest.raises(StorageError, match="cannot be reached; could not read file"):
        list(proxied.download("file", tmp_path / "file"))
    assert 100 - proxy.cut_bodies == 1 + s3_reading.RESUMES


@pytest.mark.slow
def test_time_that_is_not_told_is_an_error(proxied: S3Store) -> None:
    # http.server adds a Date of its own to every answer, so the proxy drops the store's: take its away too.
    proxied._client.meta.events.register(
        "after-call.s3.ListObjectsV2",
        lambda parsed, **_: parsed["ResponseMetadata"]["HTTPHeaders"].pop("date"),
    )
    with pytest.raises(StorageError, match="what time it is"):
        proxied.now()


# Wrong settings.

ACTIONS: dict[str, Callable[[S3Store, Path], object]] = {
    "get": lambda store, _: store.get("key"),
    "put": lambda store, _: store.put("key", b""),
    "create": lambda store, _: store.put("key", b"", if_absent=True),
    "delete": lambda store, _: store.delete("key"),
    "list": lambda store, _: store.list(""),
    "now": lambda store, _: store.now(),
    "upload": lambda store, path: store.upload(path, "key"),
    "upload_all": lambda store, path: store.upload_all({"key": path, "other": path}),
    "download": lambda store, path: list(store.download("key", path)),
}


@pytest.fixture(params=sorted(ACTIONS))
def action(request: pytest.FixtureRequest) -> Callable[[S3Store, Path], object]:
    return ACTIONS[request.param]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"access_key": "nobody"}, "does not accept the keys"),
        ({"secret_key": "wrong"}, "does not accept the keys"),
        ({"bucket": "no-such-bucket"}, "has no bucket 'no-such-bucket'"),
        ({"bucket": "Not A Bucket"}, "not valid"),
    ],
)
def test_wrong_settings_are_told_apart(
    embedded_store: S3Store,
    action: Callable[[S3Store, Path], object],
    change: dict[str, Any],
    says: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(StorageError, match=says) as caught:
        action(S3Store(replace(embedded_store.config, **change)), path)
    assert caught.value.next_step
    assert not isinstance(caught.value, PreconditionFailed)


def test_an_unreachable_store_is_said(action: Callable[[S3Store, Path], object], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9 cannot be reached") as caught:
        action(S3Store(CONFIG), path)
    assert "network" in caught.value.next_step


@pytest.mark.parametrize("endpoint", ["not a url", "http://", "ftp//x"])
def test_an_endpoint_that_is_none_is_a_usage_error(endpoint: str) -> None:
    with pytest.raises(UsageError):
        S3Store(replace(CONFIG, endpoint_url=endpoint))


def answer(code: str, status: int) -> ClientError:
    secret = "https://host/key?X-Amz-Signature=abcdef"
    return ClientError(
        {"Error": {"Code": code, "Message": secret}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "GetObject",
    )


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("RequestTimeTooSkewed", 403, "clock"),
        ("ExpiredToken", 400, "temporary keys have ended"),
        ("AccessDenied", 403, "may not"),
        ("403", 403, "may not"),
        ("InsufficientStorage", 507, "full"),
        ("SlowDown", 503, "failed"),
        ("InternalError", 500, "failed"),
        ("SomethingNew", 400, "refused"),
    ],
)
def test_answers_become_one_sentence_without_the_servers_text(code: str, status: int, says: str) -> None:
    error = translate(answer(code, status), CONFIG, doing="read key")
    assert says in str(error)
    assert "Signature" not in f"{error} {error.next_step}"
    assert error.next_step


@pytest.mark.parametrize("code", ["PreconditionFailed", "ConditionalRequestConflict", "OperationAborted"])
def test_a_lost_condition_has_many_names(code: str) -> None:
    error = translate(answer(code, 409), CONFIG, doing="write key", conditional=True)
    assert isinstance(error, PreconditionFailed)


@pytest.mark.slow
def test_the_time_is_told_even_by_a_refusal_of_our_clock(embedded_store: S3Store) -> None:
    def refuse(**_: Any) -> None:
        error = answer("RequestTimeTooSkewed", 403)
        error.response["ResponseMetadata"]["HTTPHeaders"] = {"date": "Sat, 03 Jan 2026 01:02:03 GMT"}
        raise error

    embedded_store._client.meta.events.register("before-call.s3.ListObjectsV2", refuse)
    assert embedded_store.now() == datetime(2026, 1, 3, 1, 2, 3, tzinfo=UTC)


# Links.


def test_signing_needs_no_network(soon: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for endpoint in (CONFIG.endpoint_url, None):
        store = S3Store(replace(CONFIG, endpoint_url=endpoint))
        store.presign_get("key", expires_at=soon)
        store.presign_put("key", expires_at=soon, create_only=True)


def test_links_are_for_the_pods_endpoint(soon: datetime) -> None:
    store = S3Store(replace(CONFIG, pod_endpoint_url="https://pods.example:8443"))
    url = urlsplit(store.presign_put("a/b", expires_at=soon).url.get_secret_value())
    assert (url.scheme, url.netloc, url.path) == ("https", "pods.example:8443", "/bucket/a/b")


def test_links_bind_nothing_that_a_pod_does_not_send(soon: datetime) -> None:
    query = parse_qs(urlsplit(S3Store(CONFIG).presign_put("k", expires_at=soon).url.get_secret_value()).query)
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert not any("checksum" in name for name in query)


def test_create_only_is_signed(soon: datetime) -> None:
    link = S3Store(CONFIG).presign_put("k", expires_at=soon, create_only=True)
    query = parse_qs(urlsplit(link.url.get_secret_value()).query)
    assert query["X-Amz-SignedHeaders"] == ["host;if-none-match"]


def test_a_signature_made_a_second_late_promises_no_more_than_was_asked(
    monkeypatch: pytest.MonkeyPatch, soon: datetime
) -> None:
    store, now = S3Store(CONFIG), time.time
    monkeypatch.setattr(time, "time", lambda: now() - 2)
    link = store.presign_get("k", expires_at=soon)
    assert end_of(link.url.get_secret_value()) > soon
    assert link.expires_at == soon.replace(microsecond=0)


def test_a_link_ends_with_the_keys_that_signed_it(soon: datetime) -> None:
    ends = soon - timedelta(minutes=3)
    store = S3Store(replace(CONFIG, session_token="token", credentials_expire_at=ends))
    link = store.presign_get("k", expires_at=soon)
    assert ends - timedelta(seconds=2) < link.expires_at <= ends
    assert end_of(link.url.get_secret_value()) <= ends + timedelta(seconds=1)


def test_temporary_keys_without_a_known_end_sign_nothing(soon: datetime) -> None:
    with pytest.raises(StorageError, match="nothing says when they end"):
        S3Store(replace(CONFIG, session_token="token")).presign_get("k", expires_at=soon)


# Settings.


def test_a_config_shows_no_secret() -> None:
    shown = repr(replace(CONFIG, session_token="the-token"))
    assert "the-secret" not in shown
    assert "the-token" not in shown
    assert "AKIA" not in shown


def test_keys_are_found_where_aws_tools_keep_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFOUND")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "found")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2100-01-01T02:00:00+02:00")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    config = S3Config.discover("bucket", prefix="p/")
    assert (config.access_key, config.secret_key, config.session_token) == ("AKIAFOUND", "found", "token")
    assert config.credentials_expire_at == datetime(2100, 1, 1, tzinfo=UTC)
    assert (config.region, config.prefix) == ("eu-central-1", "p/")


@pytest.mark.parametrize("profile", [None, "no-such-profile"])
def test_keys_that_are_nowhere_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str | None
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UsageError) as caught:
        S3Config.discover("bucket", profile=profile)
    assert "AWS_ACCESS_KEY_ID" in caught.value.next_step


def test_loopback_is_told_from_elsewhere() -> None:
    assert (
        is_loopback("http://127.0.0.1:80")
        and is_loopback("http://localhost")
        and is_loopback("http://[::1]:1")
    )
    assert (
        not is_loopback(None)
        and not is_loopback("https://s3.example.com")
        and not is_loopback("http://10.0.0.1")
    )


@pytest.mark.slow
def test_a_proxy_of_the_environment_is_not_used_for_loopback(
    embedded_store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert S3Store(embedded_store.config).list("") == []


@pytest.mark.slow
def test_a_prefix_shares_a_bucket(embedded_store: S3Store) -> None:
    one = S3Store(replace(embedded_store.config, prefix=embedded_store.config.prefix + "one/"))
    two = S3Store(replace(embedded_store.config, prefix=embedded_store.config.prefix + "two/"))
    one.put("key", b"1")
    assert two.list("") == []
    assert [stored.key for stored in one.list("")] == ["key"]
    assert [stored.key for stored in embedded_store.list("")] == ["one/key"]
