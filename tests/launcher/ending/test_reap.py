"""Which pods are ended by who is not their launcher: the judgement first, then in a world of fakes."""

from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.contract.reasons import Reason
from launcher.ending.reap import Ours, earliest, judge, ours
from launcher.ending.reaper import Reaper
from launcher.errors import PodError, StorageError
from launcher.model import Ending, Phase, RunRecord
from launcher.naming import PodName
from launcher.ports import Pod, PodState, Store
from tests.launcher.reaping import CREATE_LAG, NAMESPACE, reaper_of, started, stranger
from tests.launcher.world import RUN, FakeWorld

AT = datetime(2026, 1, 1, tzinfo=UTC)
ENDING = Ending(reason=Reason.SILENT, message="no heartbeat for 700 s", at=AT)


def pod_of(record: RunRecord, number: int = 1) -> Pod:
    name = record.attempt(number).pod_name
    return Pod("pod-1", name, PodState.RUNNING, record.created_at, 0.5)


def mine(pod: Pod) -> Ours:
    return ours([pod], namespace=NAMESPACE)[0]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("ended", [None, ENDING])
@pytest.mark.parametrize("late", [False, True])
def test_grounds(fake: FakeWorld, *, phase: Phase, ended: Ending | None, late: bool) -> None:
    record = started(fake)
    attempt = record.attempt(1)
    record = record.with_attempt(attempt.model_copy(update={"ended": ended}))
    record = record.model_copy(update={"phase": phase})
    now = attempt.hard_deadline if late else attempt.hard_deadline - timedelta(seconds=1)
    verdict = judge(mine(pod_of(record)), record, now)
    assert verdict.due is (late or phase.closed or ended is not None)
    assert judge(mine(pod_of(record)), None, now).due is late


def test_a_wish_to_cancel_is_no_end_yet(fake: FakeWorld) -> None:
    """Its launcher still brings home what is complete; the deadline holds."""
    record = started(fake).model_copy(update={"cancel_requested": True})
    assert not judge(mine(pod_of(record)), record, fake.store.at).due


@pytest.mark.parametrize("field", ["run_id", "namespace", "pod_name"])
def test_the_record_of_another_run_is_no_ground(fake: FakeWorld, field: str) -> None:
    record = started(fake)
    pod = pod_of(record)
    over = record.attempt(1).model_copy(update={"ended": ENDING})
    assert judge(mine(pod), record.with_attempt(over), fake.store.at).due
    if field == "pod_name":
        other = record.with_attempt(
            over.model_copy(update={"pod_name": "retrain-default-run-1-1-1767229999"})
        )
    elif field == "run_id":
        other = record.model_copy(update={"run_id": "run-2", "phase": Phase.DONE})
    else:
        spec = record.spec.model_copy(update={"namespace": "other"})
        other = record.model_copy(update={"spec": spec, "phase": Phase.DONE})
    assert not judge(mine(pod), other, fake.store.at).due


@given(
    st.text("retain-0123456789xyz", max_size=60)
    | st.builds(
        lambda space, run, number, deadline: str(PodName(space, run, number, deadline)),
        st.sampled_from(["default", "other", "defaul", "default2"]),
        st.sampled_from(["run-1", "default-run-1", "run-1-1", "1"]),
        st.integers(1, 20),
        st.integers(0, 10**6).map(lambda seconds: AT + timedelta(seconds=seconds)),
    ),
    st.none() | st.sampled_from(["run-1", "1"]),
)
def test_only_names_of_the_namespace_and_run_are_ours(name: str, run_id: str | None) -> None:
    pod = Pod("id", name, PodState.RUNNING, AT, 0.5)
    found = ours([pod], namespace="default", run_id=run_id)
    wanted = f"retrain-default-{run_id}-" if run_id else "retrain-default-"
    assert not found or name.startswith(wanted)
    if found:
        assert str(found[0].name) == name and run_id in (None, found[0].name.run_id)


@given(st.lists(st.datetimes(timezones=st.just(UTC)), min_size=1))
def test_past_is_what_is_past_by_every_clock(clocks: list[datetime]) -> None:
    assert all(earliest(clocks) <= clock for clock in clocks)


def test_a_dry_look_changes_nothing(fake: FakeWorld) -> None:
    record = started(fake)
    fake.store.at = record.attempt(1).hard_deadline
    before = fake.store.peek("records/run-1.json")
    sight = reaper_of(fake).look()
    assert [verdict.pod.pod_id for verdict in sight.due] == ["pod-1"]
    assert fake.pods.terminated == [] and fake.store.peek("records/run-1.json") == before


def test_a_pod_is_ended_at_its_deadline_and_strangers_are_left_alone(fake: FakeWorld) -> None:
    record = started(fake)
    late = int((record.attempt(1).hard_deadline - timedelta(hours=3)).timestamp())
    stranger(fake, "my-notebook")
    stranger(fake, f"retrain-other-run-1-1-{late}")
    stranger(fake, f"retrain-{NAMESPACE}-run-1-1-{late}-copy")
    fake.store.at = record.attempt(1).hard_deadline - timedelta(seconds=1)
    reaper = reaper_of(fake)
    assert not reaper.look().due
    fake.later(1)
    assert reaper.end(reaper.look().due, seconds=60) == ()
    assert fake.pods.terminated == ["pod-1"] and len(fake.pods.existing) == 3
    assert not reaper.look().verdicts


@pytest.mark.parametrize("ahead", ["store", "provider"])
def test_a_clock_that_is_a_day_ahead_ends_nothing(fake: FakeWorld, ahead: str) -> None:
    record = started(fake)
    if ahead == "provider":
        fake.pods.clock_error = timedelta(days=1)
    else:
        fake.store.at += timedelta(days=1)
        fake.pods.clock_error = -timedelta(days=1)
    assert record.attempt(1).open and not reaper_of(fake).look().due


def test_without_the_store_the_providers_clock_and_the_name_are_enough(fake: FakeWorld) -> None:
    record = started(fake)
    fake.later(60)
    fake.store.fail(10**9)
    reaper = reaper_of(fake)
    assert [verdict.due for verdict in reaper.look().verdicts] == [False]
    fake.store.at = record.attempt(1).hard_deadline
    assert reaper.end(reaper.look().due, seconds=60) == () and fake.pods.existing == {}


def test_a_missing_and_an_unreadable_record_are_unknown(fake: FakeWorld) -> None:
    started(fake)
    fake.store.put("records/run-1.json", b'{"v": "9.0"}')
    assert not reaper_of(fake).look().due
    fake.store.delete("records/run-1.json")
    assert not reaper_of(fake).look().due


def test_where_no_pod_is_ours_no_store_is_asked(fake: FakeWorld) -> None:
    stranger(fake, "my-notebook")

    def store() -> AbstractContextManager[Store | None]:
        raise AssertionError("asked")

    reaper = Reaper(
        fake.pods, fake.clock, fake.notes, namespace=NAMESPACE, create_lag=CREATE_LAG, store=store
    )
    assert reaper.look().verdicts == ()


def test_a_silent_store_is_waited_for_once(fake: FakeWorld) -> None:
    started(fake)
    for number in range(5):
        stranger(fake, f"retrain-{NAMESPACE}-run-{number}-1-1799999999")
    fake.store.fail(10**9, error=StorageError("it is silent"))
    before = sum(fake.store.calls.values())
    reaper_of(fake).look()
    assert sum(fake.store.calls.values()) == before + 1


def test_what_does_not_go_is_said_within_the_time_and_goes_later(fake: FakeWorld) -> None:
    record = started(fake)
    fake.store.at = record.attempt(1).hard_deadline
    fake.pods.stubborn = True
    reaper = reaper_of(fake)
    before = fake.clock.slept
    left = reaper.end(reaper.look().due, seconds=30)
    assert [verdict.pod.pod_id for verdict in left] == ["pod-1"] and fake.clock.slept - before == 30
    fake.pods.stubborn = False
    assert reaper.end(reaper.look().due, seconds=30) == ()


def test_an_end_that_is_acknowledged_and_not_carried_out_is_no_end(fake: FakeWorld) -> None:
    record = started(fake)
    fake.store.at = record.attempt(1).hard_deadline
    fake.pods.ends_late_seconds = 40
    reaper = reaper_of(fake)
    assert len(reaper.end(reaper.look().due, seconds=20)) == 1
    assert reaper.end(reaper.look().due, seconds=60) == ()


def test_an_absence_from_the_list_alone_is_no_proof(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    record = started(fake)
    fake.store.at = record.attempt(1).hard_deadline
    fake.pods.ends_late_seconds = 1e6
    reaper = reaper_of(fake)
    due = reaper.look().due
    monkeypatch.setattr(fake.pods, "list", lambda: [])
    assert reaper.end(due, seconds=20) == due


def test_a_list_that_fails_after_the_end_was_acknowledged_proves_nothing(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = started(fake)
    fake.store.at = record.attempt(1).hard_deadline
    reaper = reaper_of(fake)
    due = reaper.look().due

    def fails() -> None:
        raise PodError("the list does not end")

    monkeypatch.setattr(fake.pods, "list", fails)
    assert reaper.end(due, seconds=20) == due and set(fake.pods.terminated) == {"pod-1"}


def test_an_error_is_no_absence(fake: FakeWorld) -> None:
    record = started(fake)
    fake.store.at = record.attempt(1).hard_deadline
    reaper = reaper_of(fake)
    due = reaper.look().due
    fake.pods.silent = True
    assert reaper.end(due, seconds=20) == due
    with pytest.raises(PodError):
        reaper.look()


def test_a_pod_of_a_run_that_is_over_is_ended_before_its_deadline(fake: FakeWorld, tmp_path: Path) -> None:
    record = fake.run()
    assert record.phase is Phase.DONE
    stranger(fake, record.attempt(1).pod_name)  # a create that arrived late
    reaper = reaper_of(fake)
    assert reaper.end(reaper.look().due, seconds=130) == () and fake.pods.existing == {}


def test_a_young_pod_that_the_provider_does_not_know_everywhere_is_not_gone(fake: FakeWorld) -> None:
    """It was listed; then, for a minute, it is answered "not known" and shown nowhere, and bills."""
    record = fake.run()
    pod = stranger(fake, record.attempt(1).pod_name)
    reaper = reaper_of(fake)
    due = reaper.look().due
    fake.pods.unknown_until[pod.pod_id] = fake.store.at + timedelta(seconds=60)
    assert reaper.end(due, seconds=30) == due
    assert reaper.end(due, seconds=130) == () and fake.pods.existing == {}


def test_a_pod_that_is_no_longer_young_is_gone_at_once(fake: FakeWorld) -> None:
    record = started(fake)
    fake.store.at = record.attempt(1).hard_deadline
    before = fake.clock.slept
    reaper = reaper_of(fake)
    assert reaper.end(reaper.look().due, seconds=60) == () and fake.clock.slept == before


def test_a_provider_that_tells_no_time_is_judged_by_the_stores(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = started(fake)

    def dateless() -> datetime:
        raise PodError("its answers have no Date")

    monkeypatch.setattr(fake.pods, "now", dateless)
    reaper = reaper_of(fake)
    fake.store.at = record.attempt(1).hard_deadline - timedelta(seconds=1)
    assert not reaper.look().due
    fake.later(1)
    assert reaper.end(reaper.look().due, seconds=60) == () and fake.pods.existing == {}
    assert reaper.look().now == fake.store.at  # the watchdog has to know when it is over
    fake.store.fail(10**9)
    with pytest.raises(PodError, match="no Date"):
        reaper.look()


def test_a_run_is_only_itself(fake: FakeWorld) -> None:
    record = started(fake)
    other = PodName(NAMESPACE, "run-2", 1, record.attempt(1).hard_deadline)
    stranger(fake, str(other))
    fake.store.at = record.attempt(1).hard_deadline
    sight = reaper_of(fake, run_id=RUN).look()
    assert [verdict.name.run_id for verdict in sight.verdicts] == [RUN]
