"""Events stay in order and whole, whatever the store does."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job import outbox
from job.contract.events import Booted, Failed, Warned, decode_log
from job.contract.reasons import Reason
from job.outbox import Outbox
from job.patience import DeniedError, Patience, TransientError

SOON = Patience(lambda: 1e9)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(outbox, "LONGEST_WAIT_SECONDS", 0.002)


def make(path: Path, put: object) -> Outbox:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    return Outbox(path, put, run_id="r", attempt=1, life=1, now=lambda: now + timedelta(0))  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(st.text(max_size=20), max_size=12),
    faults=st.lists(st.sampled_from(["ok", "refused", "lost", "stored, answer lost"]), max_size=12),
)
def test_the_store_always_holds_a_prefix(
    tmp_path_factory: pytest.TempPathFactory, messages: list[str], faults: list[str]
) -> None:
    stored: list[bytes] = []
    left = list(faults)

    def put(data: bytes) -> None:
        fault = left.pop(0) if left else "ok"
        if fault in ("ok", "stored, answer lost"):
            stored.append(data)
        if fault != "ok":
            raise TransientError(fault)

    path = tmp_path_factory.mktemp("outbox") / "events.jsonl"
    box = make(path, put)
    for message in messages:
        box.add(Warned, message=message)
    assert box.flush(SOON)
    box.close()
    for data in stored:
        assert [event.seq for event in decode_log(data)] == list(range(1, data.count(b"\n") + 1))
    for earlier, later in pairwise(stored):
        assert later.startswith(earlier)
    final = stored[-1] if stored else b""
    assert path.read_bytes() == final
    assert [event.message for event in decode_log(final)] == messages  # type: ignore[attr-defined]


def test_nothing_follows_the_last_word(tmp_path: Path) -> None:
    stored: list[bytes] = []
    box = make(tmp_path / "e", stored.append)
    assert box.add(Booted, pod_id="p", version="0")
    assert box.add(Failed, reason=Reason.STALLED, message="still")
    assert not box.add(Warned, message="too late")
    assert box.flush(SOON)
    assert [event.kind for event in decode_log(stored[-1])] == ["booted", "failed"]


def test_a_store_that_only_refuses_is_not_waited_for(tmp_path: Path) -> None:
    def put(_: bytes) -> None:
        raise DeniedError("no")

    box = make(tmp_path / "e", put)
    box.add(Warned, message="x")
    assert not box.flush(SOON)
    assert (tmp_path / "e").read_bytes().count(b"\n") == 1


def test_patience_ends_the_wait(tmp_path: Path) -> None:
    def put(_: bytes) -> None:
        raise TransientError("down")

    box = make(tmp_path / "e", put)
    box.add(Warned, message="x")
    left = iter([1.0] * 5 + [0.0] * 1000)
    assert not box.flush(Patience(lambda: next(left)))
