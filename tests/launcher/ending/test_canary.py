"""The live canary: what it proves, what it does not, and that no pod is left whatever happens."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from launcher.ending.canary import judged, result_of
from launcher.ending.canary_watch import Moment, Sighting
from launcher.ending.reaper import Reaper
from launcher.errors import Leaked, PodError, UsageError
from launcher.loop import Loop
from launcher.model import Phase
from tests.launcher.flights import Flights
from tests.launcher.reaping import CREATE_LAG
from tests.simulators.runpod import KeyRights, Misfortune, Operation, Trouble

BOTH = (Moment.LAST_WORD, Moment.GONE)


@pytest.fixture
def flights(tmp_path: Path) -> Iterator[Flights]:
    made = Flights(tmp_path)
    yield made
    made.close()


def test_a_pod_that_ends_itself_is_proof(flights: Flights) -> None:
    flight = flights.fly()
    assert flight.ended_itself is True
    assert flight.record.phase.closed
    assert not flights.cloud.existing
    (pod,) = flights.cloud.pods
    assert pod.ended_by == "itself"
    assert flight.sighting.answers == {"v2": True}
    moments = flight.sighting.moments
    assert list(moments.values()) == sorted(moments.values())
    assert set(moments) == set(Moment)
    result = result_of(flight, flights.world, version="1", account="f00d")
    assert result.ended_itself
    assert flights.cloud.spent() <= result.charged_dollars <= 0.10


def test_the_cheapest_machine_is_rented_whatever_the_night_wants(flights: Flights) -> None:
    flight = flights.fly()
    prices = [offer.price_per_hour for offer in flights.pods.offers() if offer.stock != "none"]
    assert flight.record.attempts[-1].price_ceiling == min(prices)


def test_it_tells_which_api_heeds_the_pods_own_key(flights: Flights) -> None:
    flights.cloud.faults.conditions.pod_key_rights = KeyRights.GRAPHQL
    flight = flights.fly()
    assert flight.ended_itself is True
    assert flight.sighting.answers == {"v2": False, "graphql": True}


def test_a_pod_that_cannot_end_itself_is_ended_and_refutes(flights: Flights) -> None:
    flights.cloud.faults.conditions.pod_key_rights = KeyRights.NOWHERE
    flight = flights.fly()
    assert flight.ended_itself is False
    assert flight.sighting.answers == {"v2": False, "graphql": False}
    assert not flights.cloud.existing
    assert flights.cloud.pods[0].ended_by == "account"
    assert flights.cloud.spent() <= 0.10


def test_a_job_that_never_speaks_says_neither_yes_nor_no(flights: Flights) -> None:
    flights.cloud.faults.every_pod = Misfortune(never_ready=True)
    flight = flights.fly(cap=0.03)
    assert flight.ended_itself is None
    assert not flights.cloud.existing
    assert flights.cloud.spent() <= 0.03


def test_a_host_that_fails_proves_nothing(flights: Flights) -> None:
    flights.ends_itself = False
    flights.clock.at[8] = lambda: flights.cloud.host_kills(flights.cloud.pods[0].pod_id)
    flight = flights.fly()
    assert flight.ended_itself is None
    assert Moment.GONE in flight.sighting.moments


def hide(flights: Flights, seconds: float | None) -> None:
    """From its first time on, let list and id not show the pod that does not end itself."""
    until = None if seconds is None else flights.cloud.now() + timedelta(seconds=seconds)
    for trouble, operation in ((Trouble.EMPTY, Operation.LIST), (Trouble.NOT_FOUND, Operation.GET)):
        flights.cloud.trouble(trouble, operation, times=None, until=until)


@pytest.mark.parametrize("seconds", [10, 50])
def test_an_absence_within_the_lag_proves_nothing(flights: Flights, seconds: float) -> None:
    flights.ends_itself = False
    flights.clock.at[40] = lambda: hide(flights, seconds)
    flight = flights.fly()
    assert Moment.LAST_WORD in flight.sighting.moments
    assert flight.ended_itself is False
    assert flights.cloud.pods[0].ended_by == "account"


def test_a_pod_that_its_provider_knows_when_asked_for_its_end_is_no_proof(flights: Flights) -> None:
    flights.ends_itself = False
    flights.clock.at[40] = lambda: hide(flights, None)
    flight = flights.fly()
    assert {Moment.LAST_WORD, Moment.GONE} <= set(flight.sighting.moments)
    assert flight.ended_itself is None
    assert "did not call it unknown" in flight.why
    assert flights.cloud.pods[0].ended_by == "account"


def test_an_end_that_is_not_answered_proves_nothing(flights: Flights) -> None:
    flights.cloud.trouble(Trouble.SERVER_ERROR, Operation.DELETE, times=None, by_pods=False)
    flights.clock.at[60] = flights.cloud.faults.answers.clear
    flight = flights.fly()
    assert Moment.GONE in flight.sighting.moments
    assert flight.ended_itself is None
    assert flights.cloud.pods[0].ended_by == "itself"


def test_nothing_above_the_ceiling_is_rented(flights: Flights) -> None:
    with pytest.raises(PodError, match="costs more than"):
        flights.fly(price_ceiling=0.05)
    assert not flights.cloud.pods


def test_lags_are_measured(flights: Flights) -> None:
    flights.cloud.faults.conditions.list_lag_seconds = 30
    flights.cloud.faults.conditions.get_lag_seconds = 11
    moments = flights.fly().sighting.moments
    assert 30 <= moments[Moment.LISTED] <= 36
    assert 11 <= moments[Moment.SHOWN] <= 16


def test_a_pod_that_costs_more_than_offered_is_ended_at_once(flights: Flights) -> None:
    flights.cloud.faults.every_pod = Misfortune(price_factor=5)
    flight = flights.fly()
    assert flight.ended_itself is None
    assert not flights.cloud.existing
    assert flights.cloud.spent() < 0.02


def test_a_create_whose_answer_is_lost_is_adopted(flights: Flights) -> None:
    flights.cloud.trouble(Trouble.TIMEOUT, Operation.CREATE, after_effect=True)
    flight = flights.fly()
    assert len(flights.cloud.pods) == 1
    assert not flights.cloud.existing
    assert flight.ended_itself is True


def test_what_cannot_be_had_is_passed_over(flights: Flights) -> None:
    flights.cloud.trouble(Trouble.NO_CAPACITY, Operation.CREATE, times=3)
    assert flights.fly().ended_itself is True
    assert len(flights.cloud.pods) == 1


def test_no_pod_at_all_is_told(flights: Flights) -> None:
    flights.cloud.trouble(Trouble.NO_CAPACITY, Operation.CREATE, times=None)
    with pytest.raises(PodError, match="no pod could be rented"):
        flights.fly()
    assert not flights.cloud.pods


def test_refused_terminations_are_a_leak_and_ended_by_a_later_command(flights: Flights) -> None:
    flights.ends_itself = False
    until = flights.cloud.now() + timedelta(hours=2)
    flights.cloud.refuse_terminations(until)
    with pytest.raises(Leaked, match="LEAKED"):
        flights.fly()
    (record,) = flights.records()
    assert record.phase is Phase.LEAKED
    assert len(flights.cloud.existing) == 1
    flights.clock.sleep(7200)
    Loop(flights.world, flights.journal()).drive(record.run_id)
    assert not flights.cloud.existing


def test_ctrl_c_ends_the_pod_first(flights: Flights) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    flights.clock.at[5] = interrupt
    with pytest.raises(KeyboardInterrupt):
        flights.fly()
    assert flights.cloud.pods
    assert not flights.cloud.existing
    assert flights.records()[0].phase.closed


class Killed(BaseException):
    """The process is gone: nothing after it is done."""


@pytest.mark.parametrize("sleep", [1, 3, 9])
def test_what_a_killed_doctor_leaves_is_reaped(
    flights: Flights, sleep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise Killed

    flights.ends_itself = False
    flights.clock.at[sleep] = die

    def nothing(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("launcher.ending.canary._ended", nothing)
    with pytest.raises(Killed):
        flights.fly()
    assert len(flights.cloud.existing) == 1
    (record,) = flights.records()
    flights.clock.sleep((record.attempts[-1].hard_deadline - flights.store.at).total_seconds() + 1)
    reaper = Reaper(flights.pods, flights.clock, flights.notes, namespace="tests", create_lag=CREATE_LAG)
    assert not reaper.end(reaper.look().due, seconds=120)
    assert not flights.cloud.existing
    assert flights.cloud.spent() <= 0.10


def test_one_canary_at_a_time(flights: Flights) -> None:
    flights.journal().release(flights.journal().create(flights.record()))
    with pytest.raises(UsageError, match="still open"):
        flights.fly()
    assert not flights.cloud.pods


@pytest.mark.parametrize("untouched", [True, False])
@pytest.mark.parametrize(
    "moments", [(), (Moment.GONE,), (Moment.LAST_WORD,), (Moment.LAST_WORD, Moment.GONE)]
)
@pytest.mark.parametrize("overstayed", [True, False])
@pytest.mark.parametrize("forgotten", [True, False])
def test_only_a_pod_that_goes_of_its_own_accord_is_proof(
    moments: tuple[Moment, ...], *, untouched: bool, overstayed: bool, forgotten: bool
) -> None:
    sighting = Sighting(dict.fromkeys(moments, 1.0), overstayed=overstayed, forgotten=forgotten)
    verdict, why = judged(sighting, untouched=untouched)
    assert why
    assert (verdict is True) == (moments == BOTH and untouched and forgotten)
    assert (verdict is False) == (moments == (Moment.LAST_WORD,) and overstayed)


def test_no_line_shows_a_key_or_a_link(flights: Flights) -> None:
    flights.fly()
    text = "\n".join(flights.notes.lines)
    for secret in (flights.cloud.account_key, flights.cloud.pods[0].key, "X-Amz", "signature="):
        assert secret not in text
