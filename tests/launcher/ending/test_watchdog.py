"""The watchdog beside a run, in a world of fakes: the launcher is dead, the job hangs, it alone is left."""

from datetime import timedelta

import pytest

from launcher.ending.watchdog import LAG_SECONDS, LOOK_SECONDS, PATIENCE_SECONDS, SLICE_SECONDS, Watchdog
from launcher.errors import PodError
from launcher.model import RunRecord
from launcher.ports import Pod
from tests.launcher.reaping import reaper_of, started, stranger
from tests.launcher.world import RUN, FakeWorld


def watchdog(fake: FakeWorld, record: RunRecord) -> Watchdog:
    until = record.created_at + timedelta(seconds=record.spec.budget.max_seconds)
    return Watchdog(
        reaper_of(fake, run_id=RUN),
        fake.clock,
        fake.notes,
        run_id=RUN,
        until=until,
        started_at=fake.store.at,
    )


def lateness(fake: FakeWorld, pod_id: str = "pod-1") -> float:
    """Return how many seconds after its deadline a pod was ended."""
    bill = fake.pods.bills[pod_id]
    assert bill.ended is not None
    return (bill.ended - bill.deadline).total_seconds()


def test_the_pod_is_ended_at_its_deadline_without_launcher_job_and_store(fake: FakeWorld) -> None:
    record = started(fake, max_seconds=1000)
    other = stranger(fake, "retrain-default-run-2-1-1767225601")
    fake.store.fail(10**9)
    assert watchdog(fake, record).watch()
    assert 0 <= lateness(fake) <= 1
    assert list(fake.pods.existing.values()) == [other] and set(fake.pods.terminated) == {"pod-1"}
    assert fake.clock.slept <= 1000 + LAG_SECONDS + 2 * LOOK_SECONDS


def test_it_ends_by_itself_when_the_run_is_over(fake: FakeWorld) -> None:
    record = fake.run()
    before = fake.clock.slept
    assert watchdog(fake, record).watch() and fake.clock.slept - before <= LOOK_SECONDS


def test_it_stays_while_the_run_may_get_another_pod(fake: FakeWorld) -> None:
    """Between two attempts there is no pod, and the run is open."""
    record = started(fake, max_seconds=2000)
    fake.pods.vanish("pod-1")
    fake.clock.disturb[60] = lambda: stranger(fake, f"retrain-default-run-1-2-{late}")
    late = int((fake.store.at + timedelta(seconds=1500)).timestamp())
    assert watchdog(fake, record).watch()
    bill = fake.pods.bills["pod-2"]
    assert bill.ended is not None and bill.ended.timestamp() - late <= 1


def test_an_end_that_is_refused_for_an_hour_is_asked_for_until_it_is_confirmed(fake: FakeWorld) -> None:
    record = started(fake, max_seconds=600)
    fake.pods.stubborn = True
    relents = record.attempt(1).hard_deadline + timedelta(hours=1)

    def relent() -> None:
        fake.pods.stubborn = fake.store.at < relents

    fake.clock.disturb = dict.fromkeys(range(5000), relent)
    assert watchdog(fake, record).watch()
    assert 3600 <= lateness(fake) <= 3600 + 60 and len(fake.pods.terminated) > 100


def test_a_provider_that_was_silent_over_the_deadline_is_asked_as_soon_as_it_answers(fake: FakeWorld) -> None:
    record = started(fake, max_seconds=600)
    answers = record.attempt(1).hard_deadline + timedelta(hours=1)

    def relent() -> None:
        fake.pods.silent = fake.store.at < answers

    fake.clock.disturb = dict.fromkeys(range(5000), relent)
    assert watchdog(fake, record).watch()
    assert 3600 <= lateness(fake) <= 3600 + 60


@pytest.mark.parametrize("answers_seconds", [0, 700])
def test_a_provider_that_vanished_is_given_up_a_day_after_the_runs_time(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch, answers_seconds: int
) -> None:
    record = started(fake, max_seconds=1000)
    looks: list[float] = []

    def listed() -> list[Pod]:
        looks.append(fake.clock.slept)
        if fake.clock.slept < answers_seconds:
            return list(fake.pods.existing.values())
        raise PodError("nobody is there")

    monkeypatch.setattr(fake.pods, "list", listed)
    end = 1000 + PATIENCE_SECONDS
    assert not watchdog(fake, record).watch()
    assert end - 60 < fake.clock.slept < end + 2 * LOOK_SECONDS
    assert len(looks) < end / LOOK_SECONDS + 4 * 60 + 10  # each 15 s for an hour, each minute from then on


def test_a_pod_that_is_shown_is_not_given_up(fake: FakeWorld) -> None:
    record = started(fake, max_seconds=1000)
    fake.pods.stubborn = True
    fake.clock.limit_seconds = 4 * PATIENCE_SECONDS
    relents = fake.store.at + timedelta(seconds=2 * PATIENCE_SECONDS)

    def relent() -> None:
        fake.pods.stubborn = fake.store.at < relents

    fake.clock.disturb = dict.fromkeys(range(100_000), relent)
    assert watchdog(fake, record).watch() and fake.pods.existing == {}


def test_a_young_pod_that_is_shown_no_longer_is_not_gone(fake: FakeWorld) -> None:
    """The run is closed and the lists are empty: both would let the watchdog go."""
    record = fake.run()
    pod = stranger(fake, record.attempt(1).pod_name)
    unknown = fake.store.at + timedelta(seconds=110)
    fake.clock.disturb[fake.clock.sleeps + 1] = lambda: fake.pods.unknown_until.update({pod.pod_id: unknown})
    terminate, asked = fake.pods.terminate, list[str]()

    def refused_once(pod_id: str) -> bool:
        asked.append(pod_id)
        return len(asked) > 1 and terminate(pod_id)

    fake.pods.terminate = refused_once  # type: ignore[method-assign]
    assert watchdog(fake, record).watch() and fake.pods.existing == {}


def test_what_is_shown_no_longer_and_never_acknowledged_is_given_up_in_the_end(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = started(fake, max_seconds=1000)
    fake.pods.stubborn = True
    fake.clock.disturb[250] = lambda: fake.pods.vanish("pod-1")
    assert not watchdog(fake, record).watch()
    assert fake.clock.slept < 1000 + 600 + PATIENCE_SECONDS + 200


def test_a_laptop_that_slept_over_the_deadline_acts_when_it_wakes(fake: FakeWorld) -> None:
    record = started(fake, max_seconds=1000)

    asleep_seconds, before = 3 * 3600, 0.0

    def nap() -> None:
        nonlocal before
        before = (fake.pods.bills["pod-1"].deadline - fake.store.at).total_seconds()
        fake.later(asleep_seconds)
        fake.clock.slept += asleep_seconds

    fake.clock.disturb[20] = nap
    assert watchdog(fake, record).watch()
    assert lateness(fake) <= asleep_seconds - before + SLICE_SECONDS + 1


def test_a_pod_that_no_look_saw_before_is_ended_within_one_look(fake: FakeWorld) -> None:
    record = started(fake, max_seconds=1000)
    fake.pods.vanish("pod-1")
    short = int((fake.store.at + timedelta(seconds=110)).timestamp())
    fake.clock.disturb[20] = lambda: stranger(fake, f"retrain-default-run-1-2-{short}")
    assert watchdog(fake, record).watch()
    bill = fake.pods.bills["pod-2"]
    assert bill.ended is not None and bill.ended.timestamp() - short <= LOOK_SECONDS


def test_one_empty_list_is_no_reason_to_leave(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    record = started(fake, max_seconds=600)
    fake.store.at = record.attempt(1).hard_deadline + timedelta(seconds=2 * LAG_SECONDS)
    real, calls = fake.pods.list, []

    def listed() -> object:
        calls.append(1)
        return [] if len(calls) == 1 else real()

    monkeypatch.setattr(fake.pods, "list", listed)
    assert watchdog(fake, record).watch() and fake.pods.existing == {}


def test_what_one_look_stumbles_over_is_survived(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    record = started(fake, max_seconds=600)
    real, calls = fake.pods.list, []

    def listed() -> object:
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError
        return real()

    monkeypatch.setattr(fake.pods, "list", listed)
    assert watchdog(fake, record).watch() and lateness(fake) <= LOOK_SECONDS
