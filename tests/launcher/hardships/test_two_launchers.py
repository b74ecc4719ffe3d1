"""Two launchers and one run, one name: who acts, and what the other one may still do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from job.contract import keys
from job.contract.reasons import Reason
from launcher import actions
from launcher.errors import (
    LeaseHeld,
    PodError,
    StorageError,
    UsageError,
)
from launcher.inheritance import inherit
from launcher.model import Phase
from launcher.ports import Pod, PodSpec
from tests.launcher.world import OUTPUT, RUN, FakeWorld


def test_who_lost_the_lease_leaves_the_winners_record_alone(fake: FakeWorld) -> None:
    fake.start()
    loser = fake.journal("launcher-1")
    held = loser.acquire(RUN)
    fake.later(61)
    winner = fake.loop("launcher-2").once(RUN)
    with pytest.raises(LeaseHeld):
        loser.write(held, held.record)
    loser.release(held)
    after = fake.journal().read(RUN)
    assert [item.pod_ids for item in after.attempts] == [item.pod_ids for item in winner.attempts]
    assert after.attempts


def test_who_wakes_late_asks_for_no_pod(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.start()
    real = inherit

    def slow(*arguments: object, **options: object) -> object:
        monkeypatch.setattr(actions, "inherit", real)
        fake.later(300)  # the lid was closed between intent and request
        fake.loop("launcher-2").once(RUN)
        fake.loop("launcher-2").once(RUN)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(actions, "inherit", slow)
    with pytest.raises(LeaseHeld):
        fake.loop("launcher-1").once(RUN)
    assert len(fake.pods.created) == 1
    assert fake.loop("launcher-2").drive(RUN).phase is Phase.DONE


def test_a_pod_made_after_the_lease_was_lost_is_ended_at_once(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.start()
    real = fake.pods.create

    def slow(spec: PodSpec) -> Pod:
        monkeypatch.setattr(fake.pods, "create", real)
        fake.later(300)
        fake.journal("launcher-2").acquire(RUN)
        return real(spec)

    monkeypatch.setattr(fake.pods, "create", slow)
    with pytest.raises(LeaseHeld):
        fake.loop("launcher-1").once(RUN)
    assert fake.pods.existing == {}


def test_a_pod_that_shows_up_after_its_attempt_was_given_up_is_ended_before_the_run_is_done(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.start()
    real = fake.pods.create
    frozen: list[PodSpec] = []

    def never_answers(spec: PodSpec) -> Pod:
        monkeypatch.setattr(fake.pods, "create", real)
        frozen.append(spec)
        raise PodError("time-out")

    monkeypatch.setattr(fake.pods, "create", never_answers)
    fake.clock.disturb[8] = lambda: fake.pods.create(frozen[0])  # attempt 1 is long given up
    record = fake.loop().drive(RUN)
    assert [attempt.ended.reason for attempt in record.attempts if attempt.ended] == [
        Reason.CREATE_REFUSED,
        None,
    ]
    assert record.phase is Phase.DONE and fake.pods.existing == {}
    assert record.attempts[0].pod_ids and all(attempt.gone_at for attempt in record.attempts)


def test_a_slow_inheritance_does_not_use_up_the_time_a_pod_has_to_show(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.start()
    real = inherit

    def slow(*arguments: object, **options: object) -> object:
        fake.later(50)  # longer than the list's lag
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(actions, "inherit", slow)
    fake.pods.create_loses_answer = True
    fake.pods.invisible_until = fake.store.at.replace(minute=1, second=5)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and len(fake.pods.created) == 1 and fake.pods.existing == {}


def test_a_pass_from_cron_does_not_end_the_foreground_run(fake: FakeWorld) -> None:
    fake.start()

    def cron() -> None:
        fake.later(61)  # the foreground slept
        fake.loop("cron").once(RUN)

    fake.clock.disturb[3] = cron
    assert fake.loop("foreground").drive(RUN).phase is Phase.DONE
    assert any("waiting until it lets go" in line for line in fake.notes.lines)


def test_the_lease_is_kept_during_a_long_download(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.start()
    fake.store.chunk_bytes = 1
    real = fake.home.fetch

    def slow(*arguments: object, on_bytes: Callable[[str, int], None], **options: object) -> Path:
        def tick(name: str, count: int) -> None:
            fake.later(2)
            fake.clock.slept += 2
            on_bytes(name, count)

        return real(*arguments, on_bytes=tick, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fake.home, "fetch", slow)
    record = fake.loop("launcher-1").drive(RUN)
    assert record.phase is Phase.DONE
    assert not any("waiting" in line for line in fake.notes.lines)


def test_a_lock_whose_record_is_about_to_follow_is_respected(fake: FakeWorld) -> None:
    fake.store.put(keys.name_lock_key(OUTPUT), b'{"run_id": "about-to-be-written"}')
    with pytest.raises(UsageError, match="still open"):
        fake.start()
    fake.later(121)
    assert fake.run().phase is Phase.DONE


def test_closing_one_run_never_frees_the_name_of_another(fake: FakeWorld) -> None:
    fake.run()
    other = fake.record().model_copy(update={"run_id": "run-2"})
    fake.journal().create(other)
    fake.loop().drive(RUN)  # the closed run is looked at again
    assert fake.journal().is_open(OUTPUT)


@pytest.mark.parametrize("fault", [StorageError("503"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_wish_survives_a_launcher_that_leaves_right_after_it(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    fake.start()
    journal = fake.journal("launcher-1")
    held = journal.acquire(RUN)
    fake.journal("elsewhere").request_cancel(RUN)
    real, puts = fake.store.put, []

    def fails_once(key: str, data: bytes, **conditions: object) -> str:
        puts.append(key)
        if len(puts) == 2:  # the first one lost against the wish
            raise fault
        return real(key, data, **conditions)  # type: ignore[arg-type]

    monkeypatch.setattr(fake.store, "put", fails_once)
    with pytest.raises(type(fault)):
        journal.write(held, held.record)
    journal.release(held)
    assert fake.journal().read(RUN).cancel_requested
    assert fake.loop("launcher-2").drive(RUN).phase is Phase.CANCELLED
