"""What finishing takes on an offer, which offer is taken, and when nothing new is rented: the pure pieces."""

import math
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.contract import events
from job.contract.events import Event
from job.contract.manifest import EvaluationPlan, SamplePrompt
from job.contract.reasons import Reason
from job.contract.recipe import Recipe
from launcher.model import Ending, RunRecord
from launcher.money.budget import ceiling_of, window
from launcher.money.choice import LONGEST_PAUSE, NoChoice, appraise, choose
from launcher.money.forecast import forecast, outlook
from launcher.money.pace import Pace, Speed, pace_of
from launcher.money.speeds import PAGE, measured_speeds
from launcher.ports import SOLD_OUT, Offer
from launcher.reconcile import Create, Seen, decide
from launcher.timekeeping import JUMP_SECONDS, clock_trouble
from tests.launcher.test_decisions import attempt, with_checkpoints
from tests.launcher.world import FakeWorld

A40 = Offer("NVIDIA A40", 0.49)
PROMPTS = tuple(SamplePrompt(name=f"{n}", prompt="a face", seed=n) for n in range(24))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return FakeWorld(tmp_path_factory.mktemp("world")).record()


def night(
    record: RunRecord,
    *,
    recipe: Recipe | None = None,
    speeds: tuple[Speed, ...] = (PAGE,),
    cap_dollars: float = 5.0,
    max_seconds: float = 36_000.0,
    reserve_seconds: float = 600.0,
    **fields: object,
) -> RunRecord:
    """The manual page's run: 203 images, ten epochs, five dollars, ten hours."""
    budget = {
        "cap_dollars": cap_dollars,
        "max_seconds": max_seconds,
        "reserve_seconds": reserve_seconds,
    }
    update: dict[str, object] = {
        "recipe": recipe or Recipe(),
        "images": 203,
        "paid": True,
        "speeds": speeds,
        "evaluation": EvaluationPlan(prompts=PROMPTS),
        "budget": record.spec.budget.model_validate(budget),
        **fields,
    }
    return record.model_copy(update={"spec": record.spec.model_copy(update=update)})


def measured(offer: str, factor: float) -> Speed:
    assert PAGE.trained is not None
    return Speed(offer=offer, trained=PAGE.trained * factor, measured=True, source="run r")


def test_the_manual_pages_run_takes_five_hours_and_says_that_it_is_an_estimate(plain: RunRecord) -> None:
    run = night(plain)
    found = forecast(run, A40, run.created_at)
    assert found is not None and found.finishes and found.epochs == 10
    seconds = {part.name: part.seconds for part in found.parts}
    assert seconds["training"] == pytest.approx(10 * 508 * 4 / 2030 * 1800)
    assert seconds["evaluation"] == pytest.approx(6 * 24 * 480 / 203)
    assert not any(part.measured for part in found.parts) and found.source == "manual page, an A40"
    assert found.dollars == pytest.approx(0.49 * found.seconds / 3600)


def test_what_was_measured_goes_before_the_estimate_part_by_part(plain: RunRecord) -> None:
    run = night(plain, speeds=(measured(A40.name, 2), PAGE))
    found = forecast(run, A40, run.created_at)
    assert found is not None and found.source == "run r"
    assert {part.name: part.measured for part in found.parts} == {
        "boot": False,
        "training": True,
        "evaluation": False,
        "upload and teardown": False,
    }
    other = forecast(run, Offer("NVIDIA L4", 0.49), run.created_at)
    assert other is not None and other.parts[1].seconds == pytest.approx(2 * found.parts[1].seconds)


def test_nothing_is_forecast_from_nothing(plain: RunRecord) -> None:
    assert forecast(night(plain, speeds=()), A40, plain.created_at) is None
    assert forecast(night(plain, images=0), A40, plain.created_at) is None


recipes = st.builds(
    Recipe,
    max_epochs=st.integers(1, 60),
    save_every=st.integers(1, 9),
    batch_size=st.integers(1, 16),
    repeat_count=st.integers(1, 20),
    resolution=st.sampled_from([(24, 24), (512, 512), (768, 512)]),
)
prices = st.floats(0.01, 20, allow_nan=False)


@given(
    recipe=recipes,
    price=prices,
    cap=st.floats(0.05, 50),
    hours=st.floats(0.1, 48),
    reserve=st.floats(0, 1800),
    factor=st.floats(0.01, 100),
)
def test_what_fits_by_the_forecast_fits_by_the_deadline_arithmetic(
    plain: RunRecord,
    recipe: Recipe,
    price: float,
    cap: float,
    hours: float,
    reserve: float,
    factor: float,
) -> None:
    run = night(
        plain,
        recipe=recipe,
        speeds=(measured("", factor),),
        cap_dollars=cap,
        max_seconds=hours * 3600,
        reserve_seconds=reserve,
    )
    offer = Offer("card", price)
    found = forecast(run, offer, run.created_at)
    assert found is not None
    span = window(run, ceiling_of(run, price), run.created_at)
    if found.finishes:
        assert span is not None
        work = sum(part.seconds for part in found.parts[:3])
        assert run.created_at + timedelta(seconds=work) <= span.stop_at + timedelta(milliseconds=1)
        assert price * (work + reserve) / 3600 <= cap + 1e-6
        assert found.epochs == recipe.max_epochs
    if found.epochs:
        assert span is not None and found.epochs in recipe.saved_epochs


@given(recipe=recipes, price=prices, more=st.integers(1, 30), dearer=st.floats(0, 10))
def test_more_epochs_and_a_higher_price_never_cost_less(
    plain: RunRecord, recipe: Recipe, price: float, more: int, dearer: float
) -> None:
    run = night(plain, recipe=recipe)
    longer = night(plain, recipe=recipe.model_copy(update={"max_epochs": recipe.max_epochs + more}))
    now = run.created_at
    one, two = forecast(run, Offer("card", price), now), forecast(longer, Offer("card", price), now)
    three = forecast(run, Offer("card", price + dearer), now)
    assert one is not None and two is not None and three is not None
    assert one.seconds < two.seconds and one.dollars < two.dollars and (one.finishes or not two.finishes)
    assert one.dollars <= three.dollars and (one.finishes or not three.finishes)


def test_a_further_attempt_pays_for_what_is_left(plain: RunRecord) -> None:
    run = night(plain)
    whole = forecast(run, A40, run.created_at)
    rest = forecast(with_checkpoints(run, 2, 4, 6), A40, run.created_at)
    assert whole is not None and rest is not None
    assert rest.parts[1].seconds == pytest.approx(0.4 * whole.parts[1].seconds)


# Which offer is taken.

OFFERS = (A40, Offer("NVIDIA L40S", 1.09), Offer("NVIDIA GeForce RTX 4090", 0.69))


def test_the_cheapest_way_to_finish_goes_first(plain: RunRecord) -> None:
    run = night(plain, speeds=(measured("NVIDIA L40S", 3), PAGE))
    names = [item.offer.name for item in appraise(run, OFFERS, run.created_at)]
    assert names == ["NVIDIA L40S", "NVIDIA A40", "NVIDIA GeForce RTX 4090"]
    listed = night(plain, speeds=run.spec.speeds, cheapest=False)
    assert [item.offer for item in appraise(listed, OFFERS, run.created_at)] == list(OFFERS)


def test_equally_cheap_offers_keep_the_listed_order_and_what_is_sold_out_comes_last(plain: RunRecord) -> None:
    run = night(plain)
    offers = (Offer("a", 0.5, stock=SOLD_OUT), Offer("b", 0.5), Offer("c", 0.5))
    assert [item.offer.name for item in appraise(run, offers, run.created_at)] == ["b", "c", "a"]


def test_what_does_not_fit_is_left_out(plain: RunRecord) -> None:
    run = night(plain, cap_dollars=3.5)
    found = appraise(run, OFFERS, run.created_at)
    assert [(item.offer.name, bool(item.why_not)) for item in found] == [
        ("NVIDIA A40", False),
        ("NVIDIA GeForce RTX 4090", True),
        ("NVIDIA L40S", True),
    ]
    poor = choose(night(plain, cap_dollars=1.0), OFFERS, run.created_at)
    assert isinstance(poor, NoChoice) and poor.reason is Reason.CAP_REACHED


def test_a_run_with_results_goes_on_as_far_as_the_money_reaches(plain: RunRecord) -> None:
    run = night(plain, cap_dollars=1.5)
    assert isinstance(choose(run, [A40], run.created_at), NoChoice)
    ended = Ending(reason=Reason.POD_GONE, message="gone", at=run.created_at)
    begun = with_checkpoints(run, 2).with_attempt(attempt(run, ended=ended, gone_at=run.created_at))
    assert choose(begun, [A40], run.created_at) == A40


@given(
    count=st.integers(1, 5),
    prices=st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=5, max_size=5),
    cheapest=st.booleans(),
    rounds=st.integers(1, 3),
)
def test_no_offer_is_asked_for_again_before_all_others_were(
    plain: RunRecord, count: int, prices: list[float], cheapest: bool, rounds: int
) -> None:
    offers = [Offer(f"card-{n}", prices[n], location=f"place-{n % 2}") for n in range(count)]
    run, asked = night(plain, cheapest=cheapest), Counter[str]()
    for number in range(1, count * rounds + 1):
        chosen = choose(run, offers, run.created_at + number * timedelta(seconds=LONGEST_PAUSE))
        assert isinstance(chosen, Offer)
        asked[chosen.name] += 1
        assert max(asked.values()) - min(asked[offer.name] for offer in offers) <= 1
        refused = attempt(run, number, offer=chosen.name, offer_location=chosen.location, refused=True)
        run = run.with_attempt(refused.model_copy(update={"gone_at": run.created_at}))
    assert set(asked.values()) == {rounds}


@pytest.mark.parametrize("price", [math.nan, math.inf, -1.0, 0.0])
def test_what_has_no_price_is_not_rented(plain: RunRecord, price: float) -> None:
    run = night(plain)
    seen = Seen(now=run.created_at, offers=(Offer("card", price),))
    decision = decide(run, seen)
    assert not [action for action in decision.actions if isinstance(action, Create)]
    assert decision.record.stopped is None or decision.record.stopped.reason is Reason.NO_OFFER
    assert not decision.record.attempts
    known = decide(run, Seen(now=run.created_at, offers=(Offer("card", price), A40)))
    assert known.record.attempts[0].offer == A40.name


def test_a_machine_of_ones_own_may_cost_nothing(plain: RunRecord) -> None:
    free = Offer("this machine", 0.0)
    assert choose(night(plain, paid=False), [free], plain.created_at) == free


# The clock.


def test_a_clock_that_went_back_rents_nothing_until_it_has_caught_up(plain: RunRecord) -> None:
    run = night(plain).model_copy(update={"passed_at": plain.created_at + timedelta(hours=1)})
    early = decide(run, Seen(now=plain.created_at, offers=(A40,)))
    assert early.held_back and not early.record.attempts and early.record.stopped is None
    again = decide(run, Seen(now=plain.created_at + timedelta(hours=1), offers=(A40,)))
    assert again.record.attempts and not again.held_back


@pytest.mark.parametrize("drift", [JUMP_SECONDS + 1, -JUMP_SECONDS - 1, 1e9])
def test_a_clock_that_jumped_rents_nothing_on_that_look(plain: RunRecord, drift: float) -> None:
    run = night(plain)
    seen = Seen(now=plain.created_at, offers=(A40,), drift_seconds=drift)
    assert decide(run, seen).held_back and not decide(run, seen).record.attempts


def test_an_intent_on_record_waits_for_a_sound_clock(plain: RunRecord) -> None:
    run = decide(night(plain), Seen(now=plain.created_at, offers=(A40,))).record
    jumped = decide(run, Seen(now=plain.created_at, drift_seconds=1e6))
    assert jumped.held_back and not [item for item in jumped.actions if isinstance(item, Create)]
    sound = decide(run, Seen(now=plain.created_at))
    assert [item for item in sound.actions if isinstance(item, Create)]


def test_an_attempt_that_ended_before_it_began_is_no_ground_to_reckon_on(plain: RunRecord) -> None:
    later = plain.created_at + timedelta(days=1)
    odd = plain.with_attempt(attempt(plain, intent_at=later, gone_at=plain.created_at))
    assert "cannot be told" in clock_trouble(odd, later, 0.0)


# While it trains.


def working(run: RunRecord, *, step: int, per_step: float) -> RunRecord:
    start = run.created_at
    pace = Pace(steps=100, trained_seconds=100 * per_step)
    busy = attempt(run, step=step, total_steps=5080, pace=pace, created_at=start, price_per_hour=0.49)
    hours = {"stop_at": start + timedelta(hours=9), "hard_deadline": start + timedelta(hours=9.2)}
    return run.with_attempt(busy.model_copy(update=hours))


def test_the_outlook_follows_the_measured_speed(plain: RunRecord) -> None:
    run = night(plain, evaluation=None)
    good = outlook(working(run, step=2540, per_step=3.6), run.created_at)
    assert good is not None and good.finishes and good.epoch == 10
    assert good.ends_at == run.created_at + timedelta(seconds=2540 * 3.6)
    assert good.dollars == pytest.approx(0.49 * 2540 * 3.6 / 3600)
    slow = outlook(working(run, step=0, per_step=10), run.created_at)
    # 3240 steps in nine hours: epoch 6 is whole at 3048.
    assert slow is not None and not slow.finishes and slow.epoch == 6
    assert slow.ends_at == run.created_at + timedelta(hours=9)


def test_a_run_that_falls_short_is_noted_once(plain: RunRecord) -> None:
    run = working(night(plain), step=0, per_step=10)
    first = decide(run, Seen(now=run.created_at)).record
    assert first.attempts[0].falls_short_at == run.created_at
    later = decide(first, Seen(now=run.created_at + timedelta(seconds=9))).record
    assert later.attempts[0].falls_short_at == run.created_at


@given(
    step=st.integers(0, 2**53),
    total=st.integers(0, 2**53),
    steps=st.integers(0, 2**53),
    seconds=st.floats(0, 1e12),
)
def test_no_figure_of_a_pod_breaks_the_outlook(
    plain: RunRecord, step: int, total: int, steps: int, seconds: float
) -> None:
    run = working(night(plain), step=step, per_step=1.0)
    pace = Pace(steps=steps, trained_seconds=seconds)
    run = run.with_attempt(run.attempts[0].model_copy(update={"pace": pace, "total_steps": total}))
    found = outlook(run, run.created_at)
    assert found is None or found.ends_at >= run.created_at


# What is measured.


def said(life: int, *told: tuple[float, type[Event], dict[str, object]], record: RunRecord) -> list[Event]:
    head = {"run_id": record.run_id, "attempt": 1, "life": life}
    return [
        kind.model_validate(
            {**head, "seq": number, "at": record.created_at + timedelta(seconds=at), **fields}
        )
        for number, (at, kind, fields) in enumerate(told, 1)
    ]


def steps(step: int) -> dict[str, object]:
    return {"step": step, "total_steps": 100, "epoch": 1}


def test_pace_counts_steps_of_all_lives_and_what_comes_after(plain: RunRecord) -> None:
    began: dict[str, object] = {"total_steps": 100, "steps_per_epoch": 10, "total_epochs": 10}
    first = said(
        1, (60, events.TrainingStarted, began), (160, events.Progress, steps(20)), record=plain
    )  # 5 s a step
    second = said(
        2,
        (5, events.TrainingStarted, {**began, "first_step": 20}),
        (245, events.Progress, steps(100)),
        (305, events.Sampled, {"epoch": 10, "images": 24, "seconds": 60.0}),
        record=plain,
    )
    found = pace_of([*first, *second])
    assert found == Pace(steps=100, trained_seconds=340, evaluated_seconds=60)
    assert found.seconds_per_step == pytest.approx(3.4)


def test_a_clock_that_runs_backwards_measures_nothing(plain: RunRecord) -> None:
    began: dict[str, object] = {"total_steps": 100, "steps_per_epoch": 10, "total_epochs": 10}
    odd = said(1, (60, events.TrainingStarted, began), (1, events.Progress, steps(20)), record=plain)
    assert pace_of(odd) == Pace() and pace_of([]).seconds_per_step is None


def test_a_measured_run_makes_the_next_forecast(tmp_path: Path) -> None:
    """The fake job makes ten steps in each tick of five seconds."""
    fake = FakeWorld(tmp_path, epochs=6)
    record = fake.run()
    speeds = measured_speeds([record], record.spec)
    assert [speed.offer for speed in speeds] == ["card"] and speeds[0].source == f"run {record.run_id}"
    again = record.model_copy(update={"attempts": (), "brought": ()})
    spec = record.spec.model_copy(update={"speeds": speeds, "images": 4})
    found = forecast(again.model_copy(update={"spec": spec}), Offer("card", 0.5), fake.store.now())
    assert found is not None and found.parts[0].measured and found.parts[1].measured
    other = record.spec.model_copy(update={"provider": "docker"})
    assert measured_speeds([record], other) == ()


def test_a_boot_is_not_the_longer_for_a_launcher_that_looks_late(tmp_path: Path) -> None:
    """Epoch by epoch five seconds; nobody looks for half a minute after the pod was asked for."""
    fake = FakeWorld(tmp_path, epochs=8)
    fake.start()
    fake.loop().once(fake.journal().run_ids()[0])
    for _ in range(6):
        fake.clock.sleep(5)
    (seen,) = fake.loop().once(fake.journal().run_ids()[0]).attempts
    assert seen.created_at is not None and seen.trains_at is not None and seen.booted_at is not None
    assert (seen.booted_at - seen.created_at).total_seconds() == 30
    assert (seen.trains_at - seen.created_at).total_seconds() == 15
