"""The receipt, and the provider's own bill beside it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.contract.reasons import Reason
from launcher.errors import PodError
from launcher.model import Ending, Phase, RunRecord
from launcher.money.audit import audited
from launcher.money.billing import APART, SETTLED_AFTER, SETTLES_AFTER, Bill, billed
from launcher.money.pace import Pace
from launcher.report.receipt import receipt, receipt_lines
from launcher.report.summary import summary
from launcher.report.text import result_text
from tests.fakes.pods import Notes
from tests.launcher.money.test_forecast import night, working
from tests.launcher.test_decisions import attempt
from tests.launcher.world import RUN, FakeWorld

GONE = datetime(2026, 1, 1, 6, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return FakeWorld(tmp_path_factory.mktemp("world")).record()


def one_pod(run: RunRecord, *, trained: float = 3000, evaluated: float = 300, boot: float = 600) -> RunRecord:
    """A pod of an hour and six minutes at half a dollar, asked for a minute before."""
    start = run.created_at
    ended = Ending(reason=None, message="done", at=start + timedelta(seconds=3900))
    return run.with_attempt(
        attempt(
            run,
            ceiling=0.6,
            pod_ids=("p1",),
            price_per_hour=0.5,
            offer="NVIDIA A40",
            created_at=start + MINUTE,
            trains_at=start + MINUTE + timedelta(seconds=boot),
            gone_at=start + MINUTE + timedelta(seconds=3960),
            ended=ended,
            pace=Pace(steps=500, trained_seconds=trained, evaluated_seconds=evaluated),
        )
    )


def test_a_receipt_parts_every_second_and_dollar(plain: RunRecord) -> None:
    run = one_pod(plain)
    found = receipt(run, run.created_at + timedelta(days=1))
    (pod,) = found["pods"]
    assert pod["seconds"] == 3960
    assert pod["spent"] == {"boot": 600, "training": 3000, "evaluation": 300, "upload and teardown": 60}
    assert pod["estimated_dollars"] == pytest.approx(0.55)
    assert pod["at_most_dollars"] == pytest.approx(0.6 * 4020 / 3600)
    assert found["outside_training_seconds"] == 960
    assert found["outside_training_dollars"] == pytest.approx(0.55 * 960 / 3960, abs=1e-6)
    assert found["billed_dollars"] is None and not found["bill_settled"]
    text = "\n".join(receipt_lines(found, "runpod"))
    assert "1:06:00 = boot 0:10:00, training 0:50:00, evaluation 0:05:00, upload and teardown 0:01:00" in text
    assert "about $0.5500 (estimate), at most $0.6700" in text and "outside training: 0:16:00" in text
    assert "billed" not in text


@given(
    trained=st.floats(0, 1e7), evaluated=st.floats(0, 1e7), boot=st.floats(0, 1e7), hours=st.floats(0, 100)
)
def test_no_part_is_negative_and_all_are_the_whole(
    plain: RunRecord, trained: float, evaluated: float, boot: float, hours: float
) -> None:
    run = one_pod(plain, trained=trained, evaluated=evaluated, boot=boot)
    (pod,) = receipt(run, run.created_at + timedelta(hours=hours))["pods"]
    assert all(value >= 0 for value in pod["spent"].values())
    assert sum(pod["spent"].values()) == pytest.approx(pod["seconds"], abs=0.3)
    assert -1e-9 <= pod["outside_training_dollars"] <= pod["estimated_dollars"] + 1e-6


def test_offers_that_were_refused_are_on_no_receipt(plain: RunRecord) -> None:
    gone = Ending(reason=Reason.NO_OFFER, message="no", at=plain.created_at)
    run = plain.with_attempt(attempt(plain, refused=True, ended=gone, gone_at=plain.created_at))
    found = receipt(run, run.created_at)
    assert found["pods"] == [] and receipt_lines(found, "runpod") == []


def test_a_bill_is_an_estimate_until_it_has_settled(plain: RunRecord) -> None:
    run = one_pod(plain)
    now = run.created_at + timedelta(days=1)
    early = run.model_copy(update={"bills": (Bill(pod_id="p1", dollars=0.5, since=now),)})
    assert "billed $0.5000 by runpod so far" in "\n".join(receipt_lines(receipt(early, now), "runpod"))
    late = run.model_copy(update={"bills": (Bill(pod_id="p1", dollars=0.5, since=now, settled=True),)})
    found = receipt(late, now)
    assert found["billed_dollars"] == 0.5 and found["bill_settled"]
    assert "billed $0.5000 by runpod" in receipt_lines(found, "runpod")[5]
    assert "ABOVE" not in "\n".join(receipt_lines(found, "runpod"))


def test_a_bill_above_the_bound_is_loud(plain: RunRecord) -> None:
    run = one_pod(plain)
    bill = Bill(pod_id="p1", dollars=0.68, since=run.created_at)
    found = receipt(run.model_copy(update={"bills": (bill,)}), run.created_at)
    assert "BILLED ABOVE THE BOUND: $0.6800" in "\n".join(receipt_lines(found, "runpod"))


# When a bill is the last word.


def ask(known: Bill | None, dollars: float, after: timedelta) -> Bill:
    return billed(known, "p", dollars, gone_at=GONE, now=GONE + after)


def test_a_bill_that_stays_the_same_settles() -> None:
    first = ask(None, 1.0, SETTLES_AFTER - APART)
    assert not first.settled
    assert not ask(first, 1.0, SETTLES_AFTER - MINUTE).settled, "too early"
    assert not ask(first, 1.1, SETTLES_AFTER).settled, "it changed"
    assert ask(first, 1.0, SETTLES_AFTER).settled
    again = ask(None, 1.0, SETTLES_AFTER)
    assert not ask(again, 1.0, SETTLES_AFTER + MINUTE).settled, "asked twice within one refresh"
    kept = ask(again, 1.0, SETTLES_AFTER + MINUTE)
    assert ask(kept, 1.0, SETTLES_AFTER + APART).settled, "asking often does not put it off"


def test_a_single_late_answer_counts_and_nothing_is_no_early_answer() -> None:
    assert ask(None, 1.0, SETTLED_AFTER).settled
    nothing = ask(None, 0.0, SETTLES_AFTER - APART)
    assert not ask(nothing, 0.0, SETTLES_AFTER + APART).settled
    assert ask(nothing, 0.0, SETTLED_AFTER).settled


# Asking.


def finished(tmp_path: Path) -> tuple[FakeWorld, RunRecord]:
    fake = FakeWorld(tmp_path)
    fake.pods.sends_bills, fake.pods.bill_lag_seconds = True, 300
    fake.run()
    return fake, fake.journal().read(RUN)


def again(fake: FakeWorld, record: RunRecord, notes: Notes) -> RunRecord:
    return audited(record, fake.pods, fake.store, fake.journal(), notes.say)


def test_the_bill_comes_into_the_closed_record_and_is_asked_for_until_it_settles(tmp_path: Path) -> None:
    fake, record = finished(tmp_path)
    notes = Notes()
    early = again(fake, record, notes)
    assert len(early.bills) == 1 and not early.bills[0].settled
    fake.later(3600 * 3)
    late = again(fake, early, notes)
    assert late.bills[0].settled and late.bills[0].dollars == pytest.approx(
        next(iter(fake.pods.bills.values())).dollars(fake.store.at)
    )
    assert fake.journal().read(RUN).bills == late.bills
    unbilled = late.model_copy(update={"bills": ()})
    assert unbilled == record, "nothing else of a closed record changed"
    fake.pods.silent = True
    assert again(fake, late, notes) == late and not notes.lines, "what has settled is not asked for again"
    assert not receipt(late, fake.store.now())["pods"][0]["billed"]["above_bound"]


def test_a_provider_that_does_not_answer_spoils_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, record = finished(tmp_path)
    notes = Notes()

    def refuse(*_: object, **__: object) -> float:
        raise PodError("no")

    monkeypatch.setattr(fake.pods, "billed", refuse)
    assert again(fake, record, notes) == record and "not known yet" in notes.lines[0]


def test_nothing_is_asked_of_another_provider_or_of_an_open_run(tmp_path: Path) -> None:
    fake, record = finished(tmp_path)
    fake.pods.provider = "other"
    assert again(fake, record, Notes()) == record
    fake.pods.provider = "process"
    is_open = record.model_copy(update={"phase": Phase.TRAINING})
    assert again(fake, is_open, Notes()) == is_open


def test_an_open_record_is_left_to_who_has_its_lease(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path)
    before = fake.start()
    bill = Bill(pod_id="p", dollars=1.0, since=before.created_at)
    assert fake.journal().keep_bills(RUN, [bill]) == before == fake.journal().read(RUN)


# What a person and a script see of it.


def test_the_outlook_is_in_text_and_json(plain: RunRecord) -> None:
    good = working(night(plain), step=2540, per_step=3.6)
    result = summary(good, good.created_at)
    assert result["outlook"]["finishes"] and result["outlook"]["epoch"] == 10
    assert f"Done about {result['outlook']['eta']}" in result_text(result)
    short = working(night(plain), step=0, per_step=10)
    assert "WILL NOT FINISH: it stops after epoch 6" in result_text(summary(short, short.created_at))


def test_falling_short_is_narrated_once(tmp_path: Path) -> None:
    """Ten steps in five seconds, and twelve seconds are left for sixty."""
    fake = FakeWorld(tmp_path, epochs=12)
    record = fake.run(max_seconds=50, reserve_seconds=5)
    said = [line for line in fake.notes.lines if "at the speed measured" in line]
    assert len(said) == 1 and "it will stop after epoch" in said[0]
    assert record.attempts[0].falls_short_at is not None
