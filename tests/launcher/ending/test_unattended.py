"""What counts as proof that a pod ends although nobody watches."""

import socket
from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import SecretStr

from job.contract import keys
from launcher.ending.unattended import (
    CanaryResult,
    Demand,
    fingerprint,
    is_ci,
    keep_canary,
    note_reaper,
    require_proof,
)
from launcher.errors import UsageError
from tests.fakes.store import FakeStore

IMAGE = "registry/image@sha256:" + "0" * 64
MINE, OTHERS = fingerprint(SecretStr("rpa_MINE")), fingerprint(SecretStr("rpa_OTHERS"))
DEMAND = Demand("mine", MINE, IMAGE, canary_age=timedelta(days=30), reaper_age=timedelta(minutes=30))
DAY = 24 * 3600.0


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def canary(
    store: FakeStore, *, namespace: str = "mine", account: str = MINE, ended_itself: bool = True
) -> None:
    result = CanaryResult(
        at=store.at,
        namespace=namespace,
        provider="runpod",
        account=account,
        image=IMAGE,
        retrain="1",
        run_id="run-1",
        offer="card",
        location="SECURE",
        price_per_hour=0.2,
        ended_itself=ended_itself,
        own_key={"v2": True},
        hints={},
        seconds={"listed": 2.0},
        charged_seconds=100,
        charged_dollars=0.01,
    )
    keep_canary(store, result)


def reaper(store: FakeStore, monkeypatch: pytest.MonkeyPatch, *minutes: float, account: str = MINE) -> None:
    """Let a reaper on another machine come at these times, in minutes from now."""
    start = store.at
    with monkeypatch.context() as there:
        there.setattr(socket, "gethostname", lambda: "elsewhere")
        for minute in minutes:
            store.at = start + timedelta(minutes=minute)
            note_reaper(store, "mine", account)


def refusal(store: FakeStore, demand: Demand = DEMAND) -> str:
    with pytest.raises(UsageError) as refused:
        require_proof(store, demand)
    assert "--accept-risk" in refused.value.next_step
    assert "--live-canary" in refused.value.next_step
    return str(refused.value)


def test_nothing_is_no_proof(store: FakeStore) -> None:
    told = refusal(store)
    assert "no result of a live canary" in told
    assert "no reaper" in told


def test_a_canary_is_proof_for_thirty_days(store: FakeStore) -> None:
    canary(store)
    assert "canary" in require_proof(store, DEMAND)
    store.advance(30 * DAY - 1)
    assert "canary" in require_proof(store, DEMAND)
    store.advance(2)
    assert "older than 30 days" in refusal(store)


def test_a_canary_that_failed_is_the_newest_word(store: FakeStore) -> None:
    canary(store)
    canary(store, ended_itself=False)
    assert "could not end itself" in refusal(store)


def test_a_canary_counts_for_its_namespace_and_image(store: FakeStore) -> None:
    canary(store, namespace="other")
    assert "no result" in refusal(store)
    canary(store)
    assert "another image" in refusal(store, replace(DEMAND, image="registry/other"))


def test_a_reaper_elsewhere_on_a_schedule_is_proof(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reaper(store, monkeypatch, 0, 15)
    assert "a reaper looks after" in require_proof(store, DEMAND)
    store.advance(31 * 60)
    assert "last seen" in refusal(store)


def test_a_reaper_that_came_once_is_no_schedule(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reaper(store, monkeypatch, 0)
    assert "seen once" in refusal(store)
    reaper(store, monkeypatch, 600)
    assert "seen once" in refusal(store)


def test_a_reaper_with_another_key_is_no_proof(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reaper(store, monkeypatch, 0, 15, account=OTHERS)
    assert "another key" in refusal(store)
    reaper(store, monkeypatch, 15)
    assert "seen once" in refusal(store)


@pytest.mark.parametrize("account", [OTHERS, ""])
def test_a_canary_of_another_key_is_no_proof(store: FakeStore, account: str) -> None:
    canary(store, account=account)
    assert "another key" in refusal(store)


def test_a_fingerprint_tells_keys_apart_and_shows_nothing_of_them() -> None:
    assert MINE == fingerprint(SecretStr("rpa_MINE")) != OTHERS
    assert len(MINE) == 16 and set(MINE) <= set("0123456789abcdef")


def test_a_reaper_of_this_machine_goes_down_with_it(store: FakeStore) -> None:
    note_reaper(store, "mine", MINE)
    note_reaper(store, "mine", MINE)
    assert "runs on this machine" in refusal(store)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"v": "2.0"}', b"\xff"])
def test_what_cannot_be_read_proves_nothing(store: FakeStore, data: bytes) -> None:
    canary(store)
    store.put(keys.canary_key("mine"), data)
    refusal(store)


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("1", True), ("", False), ("false", False)])
def test_ci_says_so(value: str, *, expected: bool) -> None:
    assert is_ci({"CI": value}) is expected
    assert not is_ci({})
