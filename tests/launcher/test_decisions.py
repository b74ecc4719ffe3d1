"""The pure pieces: budget, selection, outcome, texts."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.contract.reasons import Reason
from job.contract.records import ArtefactKind, Claim, Receipt, Score, Scores
from launcher.cli.view import sparkline
from launcher.errors import Exit
from launcher.judgement import AttemptSeen, judge
from launcher.model import Attempt, Brought, Ending, Missing, Phase, RunRecord, charged_dollars
from launcher.money.budget import spent_at_most, window
from launcher.outcome import outcome
from launcher.selection import learned, select
from tests.launcher.world import RUN, FakeWorld

PRICES = st.floats(0, 100, allow_nan=False)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return FakeWorld(tmp_path_factory.mktemp("world")).record()


def attempt(record: RunRecord, number: int = 1, *, ceiling: float = 0.5, **fields: object) -> Attempt:
    start = record.created_at
    return Attempt.model_validate(
        {
            "number": number,
            "pod_name": f"pod-{number}",
            "offer": "card",
            "intent_at": start,
            "price_ceiling": ceiling,
            "stop_at": start + timedelta(minutes=30),
            "hard_deadline": start + timedelta(minutes=40),
            **fields,
        }
    )


def test_a_pod_that_nobody_saw_is_known_by_its_claim(record: RunRecord) -> None:
    start, later = record.created_at, record.created_at + timedelta(minutes=5)
    asked = attempt(record, asked_at=start)
    claim = Claim(run_id=RUN, attempt=1, life=1, at=start, pod_id="p", nonce="n")
    for found, reason in ((claim, Reason.POD_GONE), (None, Reason.CREATE_REFUSED)):
        sight = AttemptSeen(pods=(), listed_at=later, storage=True, claim=found)
        ended = judge(record, asked, sight, later, 0.0).ended
        assert ended is not None and ended.reason is reason


@given(
    cap=st.floats(0.01, 1000),
    reserve=st.floats(0, 3600),
    wall=st.floats(1, 7 * 86400),
    ceilings=st.lists(PRICES, min_size=1, max_size=6),
    delays=st.lists(st.floats(0, 3600), min_size=6, max_size=6),
)
def test_attempts_that_end_by_their_deadline_and_reserve_stay_under_the_cap(
    record: RunRecord, cap: float, reserve: float, wall: float, ceilings: list[float], delays: list[float]
) -> None:
    budget = {"cap_dollars": cap, "max_seconds": wall, "reserve_seconds": reserve, "price_ceiling": None}
    spec = record.spec.model_copy(update={"budget": record.spec.budget.model_validate(budget)})
    run = record.model_copy(update={"spec": spec})
    now = run.created_at
    for number, ceiling in enumerate(ceilings, start=1):
        now += timedelta(seconds=delays[number - 1])
        span = window(run, ceiling, now)
        if span is None:
            break
        assert now < span.stop_at <= span.hard_deadline
        assert span.hard_deadline <= run.created_at + timedelta(seconds=wall)
        # The worst case of promise 1: it is gone as late as deadline plus reserve.
        gone = span.hard_deadline + timedelta(seconds=reserve)
        run = run.with_attempt(attempt(run, number, ceiling=ceiling, intent_at=now, gone_at=gone))
        now = gone
    assert spent_at_most(run, now) <= cap + 1e-6


def test_an_attempt_is_charged_at_its_ceiling_until_it_is_confirmed_gone(record: RunRecord) -> None:
    start = record.created_at
    later = start + timedelta(hours=2)
    one = attempt(record, ceiling=0.5, price_per_hour=0.4, created_at=start + timedelta(minutes=1))
    assert charged_dollars(one, later) == pytest.approx(1.0)
    gone = one.model_copy(update={"gone_at": start + timedelta(hours=1)})
    assert charged_dollars(gone, later) == pytest.approx(0.5)
    dearer = one.model_copy(update={"price_per_hour": 2.0})
    assert charged_dollars(dearer, later) == pytest.approx(4.0)
    assert charged_dollars(one.model_copy(update={"refused": True}), later) == 0


def scores(epoch: int, attempt_number: int = 1, **rates: float) -> Scores:
    return Scores.model_validate(
        {
            "run_id": RUN,
            "attempt": attempt_number,
            "life": 1,
            "at": "2026-01-01T00:00:00Z",
            "epoch": epoch,
            "images": 100,
            "seconds": 1.0,
            "attributes": {
                name: Score(n=100, hits=round(rate * 100), low=rate - 0.1, high=rate + 0.1)
                for name, rate in rates.items()
            },
        }
    )


def with_checkpoints(record: RunRecord, *epochs: int, measured: tuple[Scores, ...] = ()) -> RunRecord:
    receipts = [
        Receipt.model_validate(
            {
                "run_id": RUN,
                "attempt": 1,
                "life": 1,
                "at": record.created_at,
                "kind": ArtefactKind.CHECKPOINT,
                "key": f"checkpoints/{record.spec.recipe.checkpoint_name(epoch)}",
                "name": record.spec.recipe.checkpoint_name(epoch),
                "epoch": epoch,
                "step": epoch * 10,
                "bytes": 1,
                "sha256": "a" * 64,
            }
        )
        for epoch in epochs
    ]
    brought = tuple(Brought(receipt=receipt, path="x", at=record.created_at) for receipt in receipts)
    return record.model_copy(update={"brought": brought, "scores": measured})


def test_the_earlier_epoch_wins_a_tie(record: RunRecord) -> None:
    run = with_checkpoints(record, 2, 4, measured=(scores(2, hair=0.80), scores(4, hair=0.85)))
    chosen = select(run)
    assert chosen is not None and chosen.epoch == 2 and "epoch 4" in chosen.why


def test_a_clearly_better_epoch_wins(record: RunRecord) -> None:
    run = with_checkpoints(
        record, 2, 4, measured=(scores(0, hair=0.25), scores(2, hair=0.30), scores(4, hair=0.85))
    )
    chosen = select(run)
    assert chosen is not None and chosen.epoch == 4 and "clear of the start in hair" in chosen.why


def test_what_is_not_at_home_is_not_selected(record: RunRecord) -> None:
    run = with_checkpoints(record, 2, measured=(scores(2, hair=0.3), scores(4, hair=0.9)))
    chosen = select(run)
    assert chosen is not None and chosen.epoch == 2
    assert select(record) is None


def test_without_measurements_the_last_epoch_is_taken_and_says_so(record: RunRecord) -> None:
    chosen = select(with_checkpoints(record, 2, 4))
    assert chosen is not None and chosen.epoch == 4 and "no attribute was measured" in chosen.why


def test_an_attribute_is_learned_only_when_the_intervals_part() -> None:
    start = scores(0, hair=0.25, mouth=0.5)
    assert learned(start, scores(2, hair=0.46, mouth=0.69)) == ("hair",)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.NAN_LOSS, Exit.TRAINING),
        (Reason.TRAINER_CRASHED, Exit.TRAINING),
        (Reason.BAD_DATASET, Exit.DATASET),
        (Reason.POD_GONE, Exit.INFRASTRUCTURE),
        (Reason.SILENT, Exit.INFRASTRUCTURE),
        (Reason.NO_OFFER, Exit.INFRASTRUCTURE),
        (Reason.HARD_DEADLINE, Exit.INCOMPLETE),
        (Reason.STOP_AT, Exit.INCOMPLETE),
        (Reason.CANCELLED, Exit.CANCELLED),
    ],
)
def test_exit_codes(record: RunRecord, reason: Reason, code: Exit) -> None:
    ending = Ending(reason=reason, message="so it was", at=record.created_at)
    cancelled = reason is Reason.CANCELLED
    run = record.with_attempt(attempt(record, ended=ending)).model_copy(
        update={"cancel_requested": cancelled}
    )
    found = outcome(run)
    assert found.exit_code is code and found.phase is (Phase.CANCELLED if cancelled else Phase.FAILED)


def test_a_lost_artefact_outweighs_other_troubles(record: RunRecord) -> None:
    ending = Ending(reason=Reason.NAN_LOSS, message="NaN", at=record.created_at)
    lost = Missing(attempt=1, key="checkpoints/x.safetensors", sha256="a" * 64, why="altered")
    run = record.with_attempt(attempt(record, ended=ending)).model_copy(update={"missing": (lost,)})
    assert outcome(run).exit_code is Exit.INCOMPLETE


def test_finished_work_whose_checkpoints_are_not_home_is_no_success(record: RunRecord) -> None:
    done = Ending(reason=None, message="the job finished its work", at=record.created_at)
    run = with_checkpoints(record.with_attempt(attempt(record, ended=done)), 2)
    found = outcome(run)
    assert found.exit_code is Exit.INCOMPLETE and "000004" in found.sentence


def test_of_several_exit_codes_the_gravest_counts() -> None:
    assert Exit.gravest([]) == 0
    assert Exit.gravest([0, 9, 5]) == 5
    assert Exit.gravest([5, 8, 7]) == 8
    assert Exit.gravest([0, 3]) == 3


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300))
def test_a_sparkline_is_never_wider_than_asked(values: list[float]) -> None:
    line = sparkline(values, width=20)
    assert 1 <= len(line) <= 20 and set(line) <= set("▁▂▃▄▅▆▇█")


def test_earlier_results_are_set_aside_and_longer_names_are_left_alone(tmp_path: Path) -> None:
    home = FakeWorld(tmp_path).home
    home.models_dir.mkdir(parents=True)
    for name in ("punks.safetensors", "punks-000002.safetensors", "punks-v2-000002.safetensors"):
        (home.models_dir / name).write_bytes(name.encode())
    moved = home.set_aside("punks", FakeWorld(tmp_path).store.at)
    assert moved is not None
    assert {path.name for path in moved.iterdir()} == {"punks.safetensors", "punks-000002.safetensors"}
    assert [path.name for path in home.models_dir.glob("*.safetensors")] == ["punks-v2-000002.safetensors"]
    assert home.set_aside("punks", FakeWorld(tmp_path).store.at) is None
