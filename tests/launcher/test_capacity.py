"""Nothing is to be had: how long a run waits for a machine, how often it asks, and how it ends."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.contract.reasons import Reason
from launcher.errors import Exit, PodError
from launcher.model import Ending, Phase, RunRecord, charged_dollars
from launcher.money.choice import FIRST_PAUSE, LONGEST_PAUSE, REFUSALS_MAX, NoChoice, Pause, choose
from launcher.outcome import outcome
from launcher.ports import Offer
from launcher.reconcile import Seen, decide
from tests.launcher.test_decisions import attempt
from tests.launcher.world import RUN, FakeWorld

POLL = 5.0
LOOK = 300.0
FULL = Ending(reason=Reason.NO_OFFER, message="no card to be had", at=FakeWorld(Path()).store.now())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return FakeWorld(tmp_path_factory.mktemp("world")).record()


def patient(record: RunRecord, seconds: float, hours: float = 24 * 30) -> RunRecord:
    clocks = record.spec.clocks.model_copy(update={"capacity_seconds": seconds})
    budget = record.spec.budget.model_copy(update={"max_seconds": hours * 3600})
    spec = record.spec.model_copy(update={"clocks": clocks, "budget": budget})
    return record.model_copy(update={"spec": spec})


def night_of_refusals(
    run: RunRecord, offers: list[Offer], *, look: float = POLL
) -> tuple[list[float], float, NoChoice]:
    """Return when offers were asked for, when the run gave up, in seconds, and how."""
    asked: list[float] = []
    seconds = 0.0
    while True:
        now = run.created_at + timedelta(seconds=seconds)
        chosen = choose(run, offers, now)
        if isinstance(chosen, NoChoice):
            return asked, seconds, chosen
        if isinstance(chosen, Offer):
            asked.append(seconds)
            assert len(asked) < 2 * REFUSALS_MAX, "refusals pile up"
            tried = attempt(run, len(asked), offer=chosen.name, refused=True, ended=FULL, gone_at=now)
            run = run.with_attempt(tried.model_copy(update={"intent_at": now, "asked_at": now}))
            seconds += POLL
        else:
            seconds += look


def test_each_pause_is_twice_as_long_up_to_ten_minutes(plain: RunRecord) -> None:
    asked, _, _ = night_of_refusals(patient(plain, 3600), [Offer("card", 0.5)])
    assert asked[:6] == [0, 60, 180, 420, 900, 1500] and asked[-1] == 3600
    assert max(later - earlier for earlier, later in pairwise(asked)) == LONGEST_PAUSE


@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 12), hours=st.sampled_from([0.001, 2.0, 8.0]))
def test_a_night_of_refusals_fits_into_a_record(plain: RunRecord, count: int, hours: float) -> None:
    offers = [Offer(f"card-{number}", 0.5) for number in range(count)]
    asked, end, given_up = night_of_refusals(patient(plain, hours * 3600), offers, look=LOOK)
    assert len(asked) <= REFUSALS_MAX + 2 * count
    assert given_up.reason is Reason.NO_OFFER and "no card to be had" in given_up.message
    # The last round begins when the patience ends, and not before.
    assert hours * 3600 <= asked[-1] <= end <= hours * 3600 + LOOK + (count + 1) * POLL
    again = [(asked[number], later) for number, later in enumerate(asked[count:])]
    assert all(later - earlier >= FIRST_PAUSE for earlier, later in again if later < hours * 3600)


def test_what_was_not_on_offer_before_is_asked_for_at_once(plain: RunRecord) -> None:
    tried = attempt(plain, offer="card", refused=True, ended=FULL, gone_at=plain.created_at)
    run, card, new = plain.with_attempt(tried), Offer("card", 0.1), Offer("new", 0.5)
    assert isinstance(choose(run, [card], run.created_at), Pause)
    assert choose(run, [card, new], run.created_at) == new


def test_a_machine_that_comes_free_is_taken_and_waiting_cost_nothing(fake: FakeWorld) -> None:
    fake.pods.no_capacity_for = {"card"}
    fake.clock.disturb[100] = fake.pods.no_capacity_for.clear
    record = fake.run()
    assert record.phase is Phase.DONE and len(record.attempts) < 10
    assert sum(charged_dollars(item, fake.store.now()) for item in record.attempts if item.refused) == 0
    assert len([line for line in fake.notes.lines if "again and again" in line]) == 1


@pytest.mark.parametrize("alone", [True, False])
def test_sold_out_to_the_end(fake: FakeWorld, alone: bool) -> None:
    """Under one launcher, and under one that comes for a pass each time."""
    fake.pods.no_capacity_for = {"card"}
    fake.start()
    began = fake.store.now()
    record = fake.loop().drive(RUN) if alone else fake.loop().once(RUN)
    while not record.phase.closed:
        fake.clock.sleep(30)
        record = fake.loop().once(RUN)
    told = outcome(record)
    assert (record.phase, told.exit_code) == (Phase.FAILED, Exit.INFRASTRUCTURE)
    assert "no machine could be had from" in told.sentence and "no card to be had" in told.sentence
    assert 900 <= (fake.store.now() - began).total_seconds() <= 1000
    assert not fake.pods.bills and len(record.attempts) <= 8


def no_answer() -> list[Offer]:
    raise PodError("the account's balance pays for nothing")


@pytest.mark.parametrize("limits", [{}, {"max_seconds": 300.0, "reserve_seconds": 60.0}])
@pytest.mark.parametrize("nothing", ["nothing listed", "no answer", "sold out"])
def test_nothing_on_offer_is_no_matter_of_the_budget(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch, limits: dict[str, float], nothing: str
) -> None:
    if nothing == "sold out":
        fake.pods.no_capacity_for = {"card"}
    else:
        offers = no_answer if nothing == "no answer" else list[Offer]
        monkeypatch.setattr(fake.pods, "offers", offers)
    told = outcome(fake.run(**limits))
    assert told.exit_code is Exit.INFRASTRUCTURE and "no machine could be had" in told.sentence
    assert nothing != "no answer" or limits or "balance" in told.sentence


def test_an_answer_that_failed_once_is_no_end(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fake.pods.offers
    monkeypatch.setattr(fake.pods, "offers", no_answer)
    fake.clock.disturb[3] = lambda: monkeypatch.setattr(fake.pods, "offers", real)
    assert fake.run().phase is Phase.DONE


def test_patience_begins_anew_after_a_machine_that_was_had(plain: RunRecord) -> None:
    """What was waited before counts no more."""
    start = plain.created_at
    gone = Ending(reason=Reason.POD_GONE, message="gone", at=start)
    run = patient(plain, 600).model_copy(update={"waiting_since": start - timedelta(hours=2)})
    run = run.with_attempt(attempt(run, ended=gone, gone_at=start, collected=True))
    waits = decide(run, Seen(now=start, offers=()))
    assert waits.record.stopped is None and waits.record.waiting_since == start
