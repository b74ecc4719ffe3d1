"""The loss curve of a run: every step once, whatever happened to the pods that made it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from job.contract import keys
from job.contract.events import Event, Progress, TrainingStarted
from launcher.model import Attempt, Phase
from launcher.results.losses import loss_table
from tests.launcher.world import OUTPUT, RUN, FakeWorld

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def fake(tmp_path: Path) -> FakeWorld:
    return FakeWorld(tmp_path)


def say(fake: FakeWorld, attempt: int, life: int, *said: tuple[type[Event], dict[str, Any]]) -> None:
    events = [
        kind(run_id=RUN, attempt=attempt, life=life, seq=number, at=NOW, **fields).encode()
        for number, (kind, fields) in enumerate(said, 1)
    ]
    fake.store.put(keys.attempt_prefix(RUN, attempt) + keys.events(life), b"\n".join(events))


def told(*losses: tuple[int, float]) -> tuple[type[Event], dict[str, Any]]:
    return Progress, {"step": losses[-1][0], "total_steps": 6, "epoch": 1, "losses": losses}


STARTED = (TrainingStarted, {"total_steps": 6, "steps_per_epoch": 2, "total_epochs": 3})


def test_steps_of_all_lives_and_attempts_are_there_once_and_in_order(fake: FakeWorld) -> None:
    record = fake.record()
    for number in (1, 2):
        attempt = Attempt(
            number=number,
            pod_name="p",
            offer="o",
            intent_at=NOW,
            price_ceiling=0,
            stop_at=NOW,
            hard_deadline=NOW,
        )
        record = record.with_attempt(attempt)
    say(fake, 1, 1, STARTED, told((1, 0.5), (2, 0.25)), told((3, 9.0)))
    say(fake, 1, 2, told((3, 0.125)))
    say(fake, 2, 1, told((3, 0.125), (4, 1 / 3)), told((6, 1e-9)))
    assert loss_table(record, fake.store).splitlines() == [
        "step,epoch,loss",
        "1,1,0.5",
        "2,1,0.25",
        "3,2,0.125",
        "4,2,0.3333333333333333",
        "6,3,1e-09",
    ]


def test_a_closed_run_has_it_beside_its_results(fake: FakeWorld) -> None:
    assert fake.run().phase is Phase.DONE
    lines = (fake.home.results(OUTPUT) / "loss.csv").read_text().splitlines()
    assert lines[0] == "step,epoch,loss"


def test_what_no_job_of_ours_wrote_does_not_keep_a_run_open(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = fake.run()
    log = keys.attempt_prefix(RUN, 1) + keys.events(1)
    fake.store.put(log, b"{]")
    assert loss_table(record, fake.store) == "step,epoch,loss\n"
    monkeypatch.setattr("launcher.results.losses.MESSAGE_BYTES_MAX", 1000)
    fake.store.put(log, b" " * 1001)
    calls = dict(fake.store.calls)
    assert loss_table(record, fake.store) == "step,epoch,loss\n"
    assert fake.store.calls["get"] == calls["get"]
