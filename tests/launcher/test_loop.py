"""The loop in a world of fakes: whole runs, and the faults that a run must come through."""

import hashlib
from datetime import timedelta

import pytest

from job.contract.reasons import Reason
from launcher.errors import Exit, LeaseHeld, UsageError
from launcher.model import Phase, RunRecord, charged_dollars
from launcher.outcome import outcome
from launcher.ports import Offer, Pod, PodSpec
from launcher.report.summary import summary
from launcher.report.text import result_text
from tests.launcher.world import OUTPUT, RUN, FakeWorld


def assert_all_home(fake: FakeWorld, record: RunRecord) -> None:
    assert record.checkpoints_not_home() == ()
    for item in record.checkpoints():
        path = fake.home.models_dir / item.receipt.name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == item.receipt.sha256


def assert_nothing_left(fake: FakeWorld, record: RunRecord) -> None:
    assert fake.pods.existing == {}
    assert all(attempt.gone_at for attempt in record.attempts)


def assert_under_cap(record: RunRecord) -> None:
    spent = sum(charged_dollars(attempt, attempt.gone_at or record.created_at) for attempt in record.attempts)
    assert spent <= record.spec.budget.cap_dollars + 1e-9


def test_a_whole_run(fake: FakeWorld) -> None:
    record = fake.run()
    assert record.phase is Phase.DONE
    assert outcome(record).exit_code is Exit.DONE
    assert_all_home(fake, record)
    assert_nothing_left(fake, record)
    assert record.selection is not None and record.selection.epoch == 4
    chosen = fake.home.selected(OUTPUT).read_bytes()
    assert chosen == (fake.home.models_dir / f"{OUTPUT}-000004.safetensors").read_bytes()
    assert not fake.journal().is_open(OUTPUT)
    result = summary(record, fake.store.now())
    assert result["teardown"]["confirmed"] and result["exit_code"] == 0
    assert "confirmed gone" in result_text(result)


def test_a_checkpoint_is_home_while_training_goes_on(fake: FakeWorld) -> None:
    fake.start()
    for _ in range(20):
        record = fake.loop().once(RUN)
        if record.checkpoints():
            break
        fake.clock.sleep(5)
    assert record.phase is Phase.TRAINING and record.checkpoints()[0].receipt.epoch == 2


def test_the_intent_is_on_record_before_the_pod_is_asked_for(fake: FakeWorld) -> None:
    fake.start()
    fake.pods.silent = True
    with pytest.raises(AssertionError):
        # Silence forever: the loop waits, and must not have asked for anything.
        fake.clock.limit_seconds = 60
        fake.loop().drive(RUN)
    assert fake.pods.created == []
    fake.pods.silent, fake.clock.limit_seconds = False, 1e6
    fake.later(120)
    record = fake.loop("launcher-2").drive(RUN)
    assert record.phase is Phase.DONE
    assert record.attempts[0].pod_name == fake.pods.created[0].name


def test_a_pod_whose_creation_was_not_confirmed_is_adopted(fake: FakeWorld) -> None:
    fake.pods.create_loses_answer = True
    record = fake.run()
    assert record.phase is Phase.DONE and len(fake.pods.created) == 1
    assert_nothing_left(fake, record)


def test_a_pod_that_nobody_confirmed_and_that_lists_late_is_adopted_too(fake: FakeWorld) -> None:
    fake.pods.create_loses_answer = True
    fake.start()
    fake.loop().once(RUN)
    fake.pods.invisible_until = fake.store.now().replace(microsecond=0)
    fake.later(60)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE
    assert len(fake.pods.created) == 1


def test_attempt_two_resumes_from_the_newest_verified_state(fake: FakeWorld) -> None:
    fake.start()
    fake.until_a_checkpoint()
    fake.clock.sleep(5)
    fake.pods.vanish("pod-1")
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE
    assert [attempt.ended.reason for attempt in record.attempts if attempt.ended] == [Reason.POD_GONE, None]
    assert record.attempts[1].resumed_epoch >= 2
    assert_all_home(fake, record)
    assert_nothing_left(fake, record)


def test_a_damaged_state_is_passed_over_for_the_older_one(fake: FakeWorld) -> None:
    fake.start()
    fake.until_a_checkpoint()
    epoch = fake.pods.jobs["pod-1"].epoch
    fake.store.corrupt(f"runs/{RUN}/attempts/1/state/{'ab'[epoch % 2]}.tar")
    fake.pods.vanish("pod-1")
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and record.attempts[1].resumed_epoch == epoch - 1


def test_a_container_that_ended_is_terminated_and_tried_again(fake: FakeWorld) -> None:
    fake.start()
    fake.loop().once(RUN)
    fake.pods.container_ends("pod-1")
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and "pod-1" in fake.pods.terminated
    assert_nothing_left(fake, record)


def test_a_reason_that_would_return_ends_the_run(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"fail_at_epoch": 2}]
    record = fake.run()
    assert record.phase is Phase.FAILED and len(record.attempts) == 1
    assert outcome(record).exit_code is Exit.TRAINING
    assert len(record.checkpoints()) == 1  # what was completed is home all the same
    assert_nothing_left(fake, record)


def test_the_next_offer_is_taken_when_one_cannot_be_had(fake: FakeWorld) -> None:
    fake.pods.listed = (Offer("gone", 0.5), Offer("there", 0.5))
    fake.pods.no_capacity_for = {"gone"}
    record = fake.run()
    assert record.phase is Phase.DONE
    assert [attempt.offer for attempt in record.attempts] == ["gone", "there"]
    assert charged_dollars(record.attempts[0], fake.store.now()) == 0


def test_a_price_above_the_ceiling_ends_the_pod(fake: FakeWorld) -> None:
    fake.pods.listed = (Offer("cheap on paper", 0.1),)
    record = fake.run()
    reasons = {attempt.ended.reason for attempt in record.attempts if attempt.ended}
    assert reasons == {Reason.PRICE_ABOVE_CEILING} and record.phase is Phase.FAILED
    assert_nothing_left(fake, record)


def test_silence_ends_an_attempt(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"hang_at_epoch": 1}]
    record = fake.run()
    assert record.phase is Phase.DONE
    assert record.attempts[0].ended is not None and record.attempts[0].ended.reason is Reason.SILENT


def test_silence_does_not_count_while_the_provider_does_not_answer(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"hang_at_epoch": 1}]
    fake.start()
    for _ in range(10):
        fake.loop().once(RUN)
        fake.clock.sleep(5)
    fake.pods.silent = True
    for _ in range(100):
        record = fake.loop().once(RUN)
        fake.clock.sleep(5)
    assert record.attempts[0].open
    fake.pods.silent = False
    assert fake.loop().once(RUN).attempts[0].open


def test_a_pod_that_never_boots_is_given_up(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 1000}]
    record = fake.run()
    assert record.phase is Phase.DONE
    assert record.attempts[0].ended is not None and record.attempts[0].ended.reason is Reason.BOOT_TIMEOUT


def test_visible_progress_starts_the_boot_clock_anew_up_to_a_limit(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"prepare_ticks": 50}, {"prepare_ticks": 1000}]
    record = fake.run()  # 250 s of visible progress are more than one boot clock
    assert record.phase is Phase.DONE and len(record.attempts) == 1
    other = FakeWorld(fake.home.workspace.parent / "other")
    other.pods.job_options = [{"prepare_ticks": 1000}]
    record = other.run()
    assert record.attempts[0].ended is not None
    assert record.attempts[0].ended.reason is Reason.BOOT_TIMEOUT and record.phase is Phase.DONE


def test_the_cap_bounds_all_attempts_together(fake: FakeWorld) -> None:
    fake.pods.price = 60.0  # a dollar a minute
    fake.epochs = 1000
    record = fake.run(cap_dollars=10.0)
    assert record.phase is Phase.FAILED and outcome(record).exit_code is Exit.INCOMPLETE
    assert_under_cap(record)
    assert_nothing_left(fake, record)


def test_earlier_attempts_count_against_the_cap(fake: FakeWorld) -> None:
    fake.pods.price = 12.0
    fake.pods.job_options = [{"hang_at_epoch": 1}] * 3  # each is silent for two minutes before it is ended
    record = fake.run(cap_dollars=1.0)
    assert len(record.attempts) > 1 and record.phase is Phase.FAILED
    assert_under_cap(record)
    assert_nothing_left(fake, record)


def test_the_hard_deadline_holds_when_the_job_ignores_its_own(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    record = fake.start(max_seconds=150)
    record = fake.loop().drive(RUN)
    assert record.attempts[0].ended is not None
    assert record.attempts[0].ended.reason is Reason.HARD_DEADLINE
    assert_nothing_left(fake, record)


def test_a_stubborn_pod_is_leaked_loudly_and_ended_later(fake: FakeWorld) -> None:
    fake.pods.stubborn = True
    record = fake.run()
    assert record.phase is Phase.LEAKED
    assert fake.journal().is_open(OUTPUT)
    result = summary(record, fake.store.now())
    assert result["exit_code"] == 8 and not result["teardown"]["confirmed"]
    fake.pods.stubborn = False
    record = fake.loop().drive(RUN)
    # Work was done, the absence is confirmed: nothing is hidden, the attempt's charge runs until it was gone.
    while not record.phase.closed:
        fake.clock.sleep(5)
        record = fake.loop().once(RUN)
    assert record.phase is Phase.DONE
    assert_nothing_left(fake, record)


def test_absence_is_not_believed_without_an_answer(fake: FakeWorld) -> None:
    fake.start()
    fake.until_a_checkpoint()
    fake.pods.silent = True
    for _ in range(20):
        record = fake.loop().once(RUN)
        fake.clock.sleep(5)
    assert not record.phase.closed
    fake.pods.silent = False
    assert fake.loop().drive(RUN).phase is Phase.DONE


@pytest.mark.parametrize("when", range(1, 9))
@pytest.mark.parametrize("calls", [1, 2, 3, 7, 40])
def test_a_storage_outage_loses_nothing(fake: FakeWorld, when: int, calls: int) -> None:
    fake.clock.disturb[when] = lambda: fake.store.fail(calls)
    record = fake.run()
    assert record.phase is Phase.DONE
    assert_all_home(fake, record)
    assert_nothing_left(fake, record)


@pytest.mark.parametrize("when", range(1, 9))
def test_a_lost_answer_to_a_write_loses_nothing(fake: FakeWorld, when: int) -> None:
    fake.clock.disturb[when] = lambda: fake.store.lose_answers(1)
    record = fake.run()
    assert record.phase is Phase.DONE
    assert_all_home(fake, record)
    assert_nothing_left(fake, record)


def test_a_tampered_checkpoint_is_named_and_never_kept(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"corrupt_epoch": 2}]
    record = fake.run()
    assert outcome(record).exit_code is Exit.INCOMPLETE
    assert record.checkpoints_not_home() == (f"{OUTPUT}-000002.safetensors",)
    assert not (fake.home.models_dir / f"{OUTPUT}-000002.safetensors").exists()
    assert_nothing_left(fake, record)


def test_two_launchers_do_not_share_a_run(fake: FakeWorld) -> None:
    fake.start()
    first = fake.journal("launcher-1")
    first.acquire(RUN)
    with pytest.raises(LeaseHeld):
        fake.loop("launcher-2").once(RUN)
    fake.later(61)
    fake.loop("launcher-2").once(RUN)


def test_a_launcher_that_lost_its_lease_does_nothing_more(fake: FakeWorld) -> None:
    fake.start()
    journal = fake.journal("launcher-1")
    held = journal.acquire(RUN)
    fake.later(61)
    fake.journal("launcher-2").acquire(RUN)
    with pytest.raises(LeaseHeld):
        journal.write(held, held.record)


def test_cancel_from_another_machine(fake: FakeWorld) -> None:
    fake.start()
    fake.until_a_checkpoint()
    journal = fake.journal("launcher-1")
    held = journal.acquire(RUN)
    fake.journal("elsewhere").request_cancel(RUN)
    journal.write(held, held.record)  # the wish survives the holder's own write
    assert held.record.cancel_requested
    journal.release(held)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.CANCELLED and outcome(record).exit_code is Exit.CANCELLED
    assert record.checkpoints()
    assert_nothing_left(fake, record)


def test_a_slow_request_leaves_its_pod_the_whole_time_to_show(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = fake.pods.create

    def slow(spec: PodSpec) -> Pod:
        fake.clock.sleep(15)
        return create(spec)

    monkeypatch.setattr(fake.pods, "create", slow)
    fake.pods.create_arrives_late = 15.0
    fake.run()
    assert len(fake.pods.bills) == 1


def test_a_pod_that_no_list_ever_showed_is_known_by_its_claim(fake: FakeWorld) -> None:
    fake.start()
    fake.pods.create_loses_answer, fake.pods.list_lag_seconds = True, 3600
    fake.loop().once(RUN)
    for _ in range(2):
        fake.clock.sleep(5)
    fake.pods.vanish("pod-1")
    for _ in range(6):
        fake.clock.sleep(5)
        record = fake.loop().once(RUN)
    ended = record.attempts[0].ended
    assert ended is not None and ended.reason is Reason.POD_GONE


def test_one_open_run_for_each_name(fake: FakeWorld) -> None:
    fake.start()
    other = fake.record().model_copy(update={"run_id": "run-2"})
    with pytest.raises(UsageError, match="still open"):
        fake.journal().create(other)
    fake.loop().drive(RUN)
    fake.journal().create(other)


def test_credentials_that_end_too_early_end_the_run_before_a_pod_is_asked_for(fake: FakeWorld) -> None:
    fake.start()
    fake.store.credentials_expire_at = fake.store.at + timedelta(minutes=90)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.FAILED and fake.pods.created == []
    assert "credentials" in outcome(record).sentence and not fake.journal().is_open(OUTPUT)


def test_a_second_pod_of_the_same_name_is_ended_while_the_first_works_on(fake: FakeWorld) -> None:
    fake.start()
    fake.loop().once(RUN)
    spec = fake.pods.created[0]
    fake.clock.sleep(5)
    fake.pods.create(spec)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and fake.pods.terminated == ["pod-2", "pod-1"]
    assert_nothing_left(fake, record)


def test_a_write_that_was_broken_off_and_comes_late_does_not_keep_the_lease(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.start()
    journal, get = fake.journal(), fake.store.get
    held = journal.acquire(RUN)
    underway = [held.record.model_copy(update={"cancel_requested": True})]

    def overtaken(key: str) -> tuple[bytes, str]:
        found = get(key)
        if underway:
            fake.store.put(key, underway.pop().encode())
        return found

    monkeypatch.setattr(fake.store, "get", overtaken)
    journal.release(held)
    record = fake.journal().read(RUN)
    assert record.lease is None and record.cancel_requested
