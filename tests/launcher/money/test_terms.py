"""What is settled before anything is uploaded: the table, the forecast, trimming, refusing."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.contract.recipe import Recipe
from launcher.errors import BudgetError, Exit, PodError
from launcher.model import RunRecord
from launcher.money.choice import appraise
from launcher.money.speeds import PAGE
from launcher.money.terms import settle, with_speeds
from launcher.ports import Offer
from tests.fakes.pods import Notes
from tests.launcher.money.test_forecast import A40, OFFERS, measured, night
from tests.launcher.world import FakeWorld


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return FakeWorld(tmp_path_factory.mktemp("world")).record()


def test_offers_and_forecast_are_shown_before_anything_is_spent(plain: RunRecord) -> None:
    notes = Notes()
    run = night(plain)
    assert settle(run, (*OFFERS, Offer("NVIDIA L4", math.nan)), notes, trim=False) == run
    text = "\n".join(notes.lines)
    rows = [line.split()[1] for line in notes.lines if line.startswith("NVIDIA")]
    assert rows == ["A40", "GeForce", "L40S", "L4"]
    assert "0.490    5.52     2.70" in text
    assert "no: the run does not fit under cap and hours" in text and "no: its price is not known" in text
    assert "training 5.0 h (estimated)" in text and "speed from manual page, an A40" in text


def test_a_run_that_fits_nowhere_is_refused(plain: RunRecord) -> None:
    with pytest.raises(BudgetError, match="nothing was spent") as caught:
        settle(night(plain, cap_dollars=1.5), OFFERS, Notes(), trim=False)
    assert caught.value.exit_code is Exit.BUDGET
    assert "epochs up to" in str(caught.value) and "--trim" in caught.value.next_step


def test_a_cap_below_the_reserve_is_refused(plain: RunRecord) -> None:
    free = night(plain, speeds=(), paid=False, cap_dollars=0.01)
    with pytest.raises(BudgetError, match="more than the teardown reserve"):
        settle(free, [Offer("this machine", 1.0)], Notes(), trim=True)


@pytest.mark.parametrize("offers", [(), (Offer("card", 0.0), Offer("other", math.nan))])
def test_without_a_price_nothing_is_begun(plain: RunRecord, offers: tuple[Offer, ...]) -> None:
    with pytest.raises(PodError, match="nothing was spent"):
        settle(night(plain), offers, Notes(), trim=True)


def test_trimming_takes_the_most_epochs_that_fit_and_says_so(plain: RunRecord) -> None:
    notes = Notes()
    trimmed = settle(night(plain, cap_dollars=2.0), OFFERS, notes, trim=True)
    assert (trimmed.spec.recipe.max_epochs, trimmed.spec.recipe.save_every) == (6, 2)
    assert any(line.startswith("TRIMMED: 6 epochs instead of 10") for line in notes.lines)


def test_not_even_one_saved_epoch_is_no_trimmed_run(plain: RunRecord) -> None:
    with pytest.raises(BudgetError):
        settle(night(plain, cap_dollars=0.5), OFFERS, Notes(), trim=True)


@given(epochs=st.integers(1, 200), every=st.integers(1, 12), cap=st.floats(0.2, 40), hours=st.floats(0.3, 60))
def test_what_is_trimmed_fits_and_one_checkpoint_more_would_not(
    plain: RunRecord, epochs: int, every: int, cap: float, hours: float
) -> None:
    recipe = Recipe(max_epochs=epochs, save_every=every)

    def run(count: int) -> RunRecord:
        shorter = recipe.model_copy(update={"max_epochs": count})
        return night(plain, recipe=shorter, cap_dollars=cap, max_seconds=hours * 3600)

    def fits(count: int) -> bool:
        return not appraise(run(count), [A40], plain.created_at)[0].why_not

    try:
        found = settle(run(epochs), [A40], Notes(), trim=True).spec.recipe.max_epochs
    except BudgetError:
        assert not fits(epochs) and (every >= epochs or not fits(every))
        return
    assert fits(found) and (found == epochs or found % every == 0)
    longer = min(found + every, epochs)
    assert found == epochs or not fits(longer) or longer == epochs


def test_only_paid_machines_are_taken_for_the_manual_pages(plain: RunRecord) -> None:
    assert with_speeds(night(plain, speeds=()), []).spec.speeds == (PAGE,)
    free = with_speeds(night(plain, speeds=(measured("x", 1),), paid=False), [])
    assert free.spec.speeds == ()
    notes = Notes()
    settle(free, [Offer("this machine", 0.0)], notes, trim=False)
    assert notes.lines[-1].startswith("no forecast: no earlier run")


def test_an_earlier_runs_speed_goes_into_the_next_run(plain: RunRecord, tmp_path: Path) -> None:
    earlier = FakeWorld(tmp_path, epochs=6).run()
    after = with_speeds(plain, [earlier])
    assert [(speed.offer, speed.measured) for speed in after.spec.speeds] == [("card", True)]
