"""A pod that no list shows, known by its claim alone."""

from datetime import timedelta

import pytest

from job.contract import keys
from job.contract.records import Claim
from launcher.errors import PodError
from launcher.model import Attempt, Phase, RunRecord
from launcher.money.audit import audited
from launcher.ports import Pod, PodSpec, PodState
from launcher.report.receipt import receipt
from launcher.roster import Roster
from tests.fakes.pods import Notes
from tests.launcher.world import RUN, FakeWorld


class Killed(BaseException):
    """The launcher dies."""


def die_after_the_request(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fake.pods.create

    def create(spec: PodSpec) -> Pod:
        monkeypatch.setattr(fake.pods, "create", real)
        real(spec)
        raise Killed

    monkeypatch.setattr(fake.pods, "create", create)
    fake.start()
    with pytest.raises(Killed):
        fake.loop().drive(RUN)


def first_attempt(fake: FakeWorld) -> Attempt:
    record: RunRecord = fake.journal().read(RUN)
    return record.attempts[0]


def test_a_pod_that_no_list_shows_is_adopted_by_its_claim(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.epochs = 40
    fake.pods.list_lag_seconds = 1e6
    die_after_the_request(fake, monkeypatch)
    for _ in range(6):
        fake.clock.sleep(5)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and len(fake.pods.created) == 1
    assert record.attempts[0].pod_ids == ("pod-1",) and not fake.pods.existing


def test_a_claim_makes_no_other_pod_an_attempts_own(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    die_after_the_request(fake, monkeypatch)
    roster, attempt = Roster(fake.pods, fake.store.now()), first_attempt(fake)
    assert [pod.pod_id for pod in roster.claimed(attempt, "pod-1")] == ["pod-1"]
    other = attempt.model_copy(update={"pod_name": "another"})
    assert roster.claimed(other, "pod-1") == () and roster.claimed(attempt, "pod-9") == ()


def test_a_pod_that_was_gone_before_any_list_showed_it_is_on_the_receipt(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.epochs = 40
    fake.pods.list_lag_seconds = 60
    fake.pods.sends_bills = True
    die_after_the_request(fake, monkeypatch)
    for _ in range(3):
        fake.clock.sleep(5)
    fake.pods.vanish("pod-1")
    fake.clock.sleep(60)
    fake.pods.list_lag_seconds = 0
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and len(record.attempts) == 2
    assert record.attempts[0].pod_ids == () and "pod-1" not in fake.pods.terminated
    told = audited(record, fake.pods, fake.store, fake.journal(), Notes().say)
    pod = receipt(told, fake.store.now() + timedelta(hours=1))["pods"][0]
    assert pod["pod_ids"] == ["pod-1"] and pod["billed"]["dollars"] > 0
    assert not pod["billed"]["above_bound"] and pod["at_most_dollars"] > 0


@pytest.mark.parametrize("pod_id", ["", "..", "a/b", "x" * 300, "a\nb", "pod-77"])
def test_whatever_a_claim_says_it_neither_holds_a_run_up_nor_ends_a_strangers_pod(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch, pod_id: str
) -> None:
    stranger = Pod("pod-77", "a strangers", PodState.RUNNING, fake.store.now(), 0.5)
    real = fake.pods.get

    def get(asked: str) -> Pod | None:
        if not asked.isprintable() or not asked.strip("./") or len(asked) > 200:
            raise PodError("no id of a pod")
        return stranger if asked == stranger.pod_id else real(asked)

    monkeypatch.setattr(fake.pods, "get", get)
    die_after_the_request(fake, monkeypatch)
    fake.pods.vanish("pod-1")
    claim = Claim(run_id=RUN, attempt=1, life=1, at=fake.store.now(), pod_id=pod_id, nonce="n")
    fake.store.put(keys.attempt_prefix(RUN, 1) + keys.claim(1), claim.encode())
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and len(record.attempts) == 2
    assert stranger.pod_id not in fake.pods.terminated
