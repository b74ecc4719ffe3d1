"""One list for a whole pass: what it saves, and what a list that got old may not be taken to show."""

from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.contract.reasons import Reason
from launcher.errors import PodError
from launcher.judgement import AttemptSeen, judge
from launcher.model import Attempt, Ending, Phase, RunRecord
from launcher.ports import Pod
from launcher.roster import Roster
from tests.fakes.pods import FakePods
from tests.launcher.world import RUN, FakeWorld

LAG = 20
"""Seconds: `create_lag` of the fake world's runs."""


class Counted(FakePods):
    """Counts lists and gets."""

    lists = gets = 0

    def list(self) -> "list[Pod]":
        self.lists += 1
        return [*super().list()]

    def get(self, pod_id: str) -> Pod | None:
        self.gets += 1
        return super().get(pod_id)


def listed(fake: FakeWorld) -> Roster:
    """Return a roster whose list is of this moment."""
    roster = Roster(fake.pods, fake.store.now())
    roster.shown(an_attempt(fake.record()))
    return roster


def an_attempt(record: RunRecord, **fields: object) -> Attempt:
    start = record.created_at
    return Attempt.model_validate(
        {
            "number": 1,
            "pod_name": "pod-of-1",
            "offer": "card",
            "intent_at": start,
            "asked_at": start,
            "price_ceiling": 0.5,
            "stop_at": start + timedelta(hours=2),
            "hard_deadline": start + timedelta(hours=3),
            **fields,
        }
    )


def test_a_list_is_asked_for_once_and_so_is_one_that_failed(fake: FakeWorld) -> None:
    pods = Counted(fake.store)
    attempt = an_attempt(fake.record())
    roster = Roster(pods, fake.store.now())
    assert pods.lists == 0
    assert roster.shown(attempt) == roster.pods_of(attempt) == ()
    assert (pods.lists, pods.gets) == (1, 0)
    pods.silent = True
    roster = Roster(pods, fake.store.now())
    for _ in range(3):
        with pytest.raises(PodError, match="does not answer"):
            roster.pods_of(attempt)
    pods.silent = False
    with pytest.raises(PodError):
        roster.pods_of(attempt)  # of one pass, all runs are told the same
    assert (pods.lists, pods.gets) == (2, 0)


def test_a_foreground_run_lists_once_a_pass(fake: FakeWorld) -> None:
    fake.pods = pods = Counted(fake.store)
    fake.clock.pods = pods
    assert fake.run().phase is Phase.DONE
    assert fake.clock.sleeps - 2 <= pods.lists <= fake.clock.sleeps + 2
    assert pods.gets <= 2  # its absence is confirmed both ways


def test_a_pod_made_after_the_list_is_not_judged_absent_by_it(fake: FakeWorld) -> None:
    fake.start()
    old = listed(fake)
    fake.pods.create_loses_answer = True
    fake.loop().once(RUN)
    fake.later(1000)  # much longer than a list may lag
    record = fake.loop().once(RUN, old)
    assert record.attempts[0].open and not record.attempts[0].pod_ids
    record = fake.loop().once(RUN, listed(fake))
    assert record.attempts[0].pod_ids == ("pod-1",) and len(fake.pods.created) == 1


def test_a_pod_on_record_that_is_not_listed_is_asked_for_by_its_id(fake: FakeWorld) -> None:
    fake.start()
    fake.pods.list_lag_seconds = 10_000
    fake.loop().once(RUN)
    fake.later(LAG + 30)
    record = fake.loop().once(RUN)
    assert record.attempts[0].open and record.attempts[0].watch.saw_both


def test_a_pod_that_an_old_list_still_shows_does_not_reopen_its_attempt(fake: FakeWorld) -> None:
    fake.start()
    fake.until_a_checkpoint()
    old = listed(fake)
    fake.clock.sleep(60)
    fake.pods.vanish("pod-1")
    for _ in range(3):
        fake.clock.sleep(LAG + 5)
        record = fake.loop().once(RUN)
    gone_at = record.attempts[0].gone_at
    assert gone_at is not None and not record.phase.closed
    record = fake.loop().once(RUN, old)
    assert record.attempts[0].gone_at == gone_at


def test_a_failed_list_is_no_absence_however_much_time_passes(fake: FakeWorld) -> None:
    fake.start()
    fake.loop().once(RUN)
    fake.pods.vanish("pod-1")
    fake.later(100)
    fake.pods.silent = True
    roster = Roster(fake.pods, fake.store.now())
    with pytest.raises(PodError):
        roster.shown(an_attempt(fake.record()))
    fake.pods.silent = False
    assert fake.loop().once(RUN, roster).attempts[0].open
    ended = fake.loop().once(RUN, listed(fake)).attempts[0].ended
    assert ended is not None and ended.reason is Reason.POD_GONE


def test_a_provider_that_fails_shows_no_absence_of_a_pod_that_has_not_claimed_yet(fake: FakeWorld) -> None:
    fake.start()
    fake.loop().once(RUN)
    fake.later(5 * LAG)
    fake.pods.silent = True
    assert fake.loop().once(RUN).attempts[0].open
    fake.pods.silent = False
    assert fake.loop().once(RUN).attempts[0].open and len(fake.pods.existing) == 1


MOMENTS = st.integers(-30, 200)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return FakeWorld(tmp_path_factory.mktemp("world")).record()


@given(listed_at=MOMENTS, asked_at=MOMENTS, acknowledged_at=st.none() | MOMENTS, now=st.integers(200, 2000))
def test_gone_needs_a_list_that_is_younger_than_all_it_is_to_show(
    record: RunRecord, listed_at: int, asked_at: int, acknowledged_at: int | None, now: int
) -> None:
    def at(seconds: int) -> datetime:
        return record.created_at + timedelta(seconds=seconds)

    ids = () if acknowledged_at is None else ("pod-1",)
    attempt = an_attempt(
        record,
        asked_at=at(asked_at),
        pod_ids=ids,
        acknowledged=ids,
        acknowledged_at=None if acknowledged_at is None else at(acknowledged_at),
        ended=Ending(reason=None, message="", at=record.created_at),
    )
    after = judge(record, attempt, AttemptSeen(pods=(), listed_at=at(listed_at)), at(now), 1.0)
    young_enough = listed_at - asked_at > LAG and (acknowledged_at is None or listed_at > acknowledged_at)
    assert (after.gone_at is not None) == young_enough
    failed = judge(record, attempt, AttemptSeen(), at(now), 1.0)
    assert failed.gone_at is None


class Step(StrEnum):
    """What may happen between two passes, and passes by lists of any age."""

    LIST = "a list is taken and kept"
    PASS_OLD = "a pass by the kept list"
    PASS_NEW = "a pass by a list of now"
    TIME = "time passes"
    LOSE = "the next request's answer is lost"
    LATE = "the next request takes effect later"
    VANISH = "the host takes the pod away"
    ENDS_LATE = "ends are acknowledged and carried out later"


@settings(deadline=None, max_examples=100)
@given(steps=st.lists(st.tuples(st.sampled_from(Step), st.sampled_from([1, 5, 9, 30, 400])), max_size=25))
def test_by_lists_of_any_age_no_second_pod_is_made_and_none_is_left(steps: list[tuple[Step, int]]) -> None:
    with TemporaryDirectory() as folder:
        fake = FakeWorld(Path(folder), silence_seconds=10_000)
        fake.start()
        kept = listed(fake)
        for step, seconds in steps:
            match step:
                case Step.LIST:
                    kept = listed(fake)
                case Step.PASS_OLD:
                    fake.loop().once(RUN, kept)
                case Step.PASS_NEW:
                    fake.loop().once(RUN, listed(fake))
                case Step.TIME:
                    fake.clock.sleep(seconds)
                case Step.LOSE:
                    fake.pods.create_loses_answer = True
                case Step.LATE:
                    fake.pods.create_arrives_late = min(seconds, 9)
                case Step.VANISH:
                    for pod_id in list(fake.pods.existing)[:1]:
                        fake.pods.vanish(pod_id)
                case Step.ENDS_LATE:
                    fake.pods.ends_late_seconds = min(seconds, 30)  # before it is called a leak
            alive = [*fake.pods.existing.values(), *(spec for _, spec in fake.pods.underway)]
            assert len(alive) <= 1
            assert not fake.journal().read(RUN).phase.closed or not alive
        record = fake.loop().drive(RUN)
        assert record.phase.closed and not fake.pods.existing and not fake.pods.underway
        names = [spec.name for spec in fake.pods.created]
        assert len(names) == len(set(names))
