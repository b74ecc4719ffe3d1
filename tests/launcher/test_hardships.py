"""What goes wrong at two in the morning: late launchers, hostile pods, deleted folders, dead stores."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from job.contract import keys
from job.contract.manifest import ArtefactKind, InputRole, RunManifest
from job.contract.reasons import Reason
from job.contract.records import Receipt
from job.contract.schema import decode
from launcher import actions
from launcher.errors import (
    CreateRefused,
    Exit,
    LeaseHeld,
    LocalDiskError,
    PodError,
    RetrainError,
    StorageError,
    UsageError,
)
from launcher.inheritance import inherit
from launcher.loop import Loop
from launcher.model import Phase, charged_dollars
from launcher.outcome import outcome
from launcher.ports import Pod, PodSpec, Stored
from tests.launcher.world import OUTPUT, RUN, FakeWorld


@pytest.fixture
def fake(tmp_path: Path) -> FakeWorld:
    return FakeWorld(tmp_path)


def until_a_checkpoint(fake: FakeWorld) -> None:
    while not fake.loop().once(RUN).checkpoints():
        fake.clock.sleep(5)


def vouch(
    fake: FakeWorld,
    kind: ArtefactKind,
    key: str,
    data: bytes,
    *,
    epoch: int = 2,
    name: str = "x",
    attempt: int = 1,
) -> None:
    """Write an artefact and its receipt as a pod could."""
    receipt = Receipt(
        run_id=RUN,
        attempt=attempt,
        life=1,
        at=fake.store.at,
        kind=kind,
        key=key,
        name=name,
        epoch=epoch,
        step=1,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    prefix = keys.attempt_prefix(RUN, attempt)
    fake.store.put(prefix + key, data)
    fake.store.put(prefix + keys.receipt(key), receipt.encode())


# Two launchers.


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


# Names.


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


# Home.


def test_a_night_without_a_launcher_gives_nothing_up(fake: FakeWorld) -> None:
    fake.start()
    for _ in range(3):
        fake.loop().once(RUN)
        fake.clock.sleep(5)
    for _ in range(10):
        fake.pods.tick()
    fake.later(8 * 3600)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and record.checkpoints_not_home() == ()


def test_what_was_deleted_at_home_is_fetched_again_before_the_run_is_called_done(fake: FakeWorld) -> None:
    fake.start()
    until_a_checkpoint(fake)
    shutil.rmtree(fake.home.models_dir)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE
    for item in record.checkpoints():
        data = (fake.home.models_dir / item.receipt.name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == item.receipt.sha256


def test_what_can_be_fetched_no_more_is_named(fake: FakeWorld) -> None:
    fake.start()
    until_a_checkpoint(fake)
    shutil.rmtree(fake.home.models_dir)
    name = f"{OUTPUT}-000002.safetensors"
    fake.store.delete(f"runs/{RUN}/attempts/1/checkpoints/{name}")
    record = fake.loop().drive(RUN)
    assert outcome(record).exit_code is Exit.INCOMPLETE and record.checkpoints_not_home() == (name,)


def test_a_full_disk_at_the_end_is_said_and_the_run_can_be_taken_up(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.start()
    real = fake.home.finish

    def refuse(_: object) -> None:
        raise LocalDiskError("the disk is full")

    monkeypatch.setattr(fake.home, "finish", refuse)
    with pytest.raises(LocalDiskError):
        fake.loop().drive(RUN)
    assert fake.pods.existing == {}
    monkeypatch.setattr(fake.home, "finish", real)
    assert fake.loop().drive(RUN).phase is Phase.DONE


def test_an_earlier_attempts_checkpoint_does_not_replace_a_later_ones(fake: FakeWorld) -> None:
    fake.start()
    until_a_checkpoint(fake)
    fake.pods.vanish("pod-1")
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE
    newest = {item.receipt.epoch: item.receipt.attempt for item in record.checkpoints()}
    assert newest == {2: 1, 4: 2}


def test_a_view_that_fails_does_not_end_the_run(fake: FakeWorld) -> None:
    fake.start()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    loop = Loop(fake.world, fake.journal(), on_pass=broken)
    assert loop.drive(RUN).phase is Phase.DONE
    assert any("the view failed" in line for line in fake.notes.lines)


# The store is dead, the pods are not.


def test_the_hard_deadline_holds_without_the_store(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)
    fake.clock.disturb[4] = lambda: fake.store.fail(10**9)
    with pytest.raises(StorageError, match="every pod was ended at its deadline"):
        fake.loop().drive(RUN)
    assert fake.pods.existing == {} and fake.clock.slept < 300 + 120 + 180


def test_without_store_and_provider_it_is_a_leak(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)

    def silence() -> None:
        fake.store.fail(10**9)
        fake.pods.silent = True

    fake.clock.disturb[4] = silence
    with pytest.raises(RetrainError, match="LEAKED") as caught:
        fake.loop().drive(RUN)
    assert caught.value.exit_code is Exit.LEAKED


def test_the_deadline_holds_though_the_store_died_before_the_first_look(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)
    fake.loop().once(RUN)
    fake.later(61)

    def dies(prefix: str) -> Sequence[Stored]:
        fake.store.fail(10**9)
        return ()

    monkeypatch.setattr(fake.store, "list", dies)
    with pytest.raises(StorageError):
        fake.loop("launcher-2").drive(RUN)
    assert fake.pods.existing == {} and fake.clock.slept < 3600


def test_waiting_for_the_lease_does_not_outwait_the_deadline(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)

    def cron_and_then_nothing() -> None:
        fake.later(61)
        fake.journal("cron").acquire(RUN)
        fake.clock.disturb[fake.clock.sleeps + 2] = lambda: fake.store.fail(10**9)

    fake.clock.disturb[3] = cron_and_then_nothing
    with pytest.raises(StorageError, match="every pod was ended"):
        fake.loop("foreground").drive(RUN)
    assert fake.pods.existing == {}


def test_one_hiccup_long_after_the_deadline_is_no_leak(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)
    fake.loop().once(RUN)
    fake.later(6 * 3600)
    fake.clock.disturb[1] = lambda: fake.store.fail(1)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.FAILED and fake.pods.existing == {}


def test_what_the_store_refuses_for_good_does_not_keep_a_run_open_for_ever(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.start()
    until_a_checkpoint(fake)
    shutil.rmtree(fake.home.models_dir)
    real = fake.store.download

    def refused(key: str, path: Path, *, offset: int = 0) -> object:
        if "000002" in key:
            raise StorageError("403")
        return real(key, path, offset=offset)

    monkeypatch.setattr(fake.store, "download", refused)
    record = fake.loop().drive(RUN)
    assert record.phase.closed and outcome(record).exit_code is Exit.INCOMPLETE
    assert record.checkpoints_not_home() == (f"{OUTPUT}-000002.safetensors",)


def test_no_pod_is_asked_for_after_its_own_time(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.start(max_seconds=300)
    real = inherit

    def slow(*arguments: object, **options: object) -> object:
        fake.later(400)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(actions, "inherit", slow)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.FAILED and fake.pods.created == []


def test_a_provider_that_never_says_what_is_on_offer_ends_the_run(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> object:
        raise PodError("401")

    monkeypatch.setattr(fake.pods, "offers", silent)
    record = fake.run(max_seconds=600)
    assert record.phase is Phase.FAILED and fake.pods.created == []


def test_a_leaked_run_gets_no_further_attempt(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"hang_at_epoch": 1}]
    fake.pods.stubborn = True
    record = fake.run()
    assert record.phase is Phase.LEAKED
    fake.pods.stubborn = False
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.FAILED and len(fake.pods.created) == 1 and fake.pods.existing == {}


def test_a_launcher_that_died_before_the_end_was_asked_for_is_no_leak(fake: FakeWorld) -> None:
    fake.start()
    until_a_checkpoint(fake)
    fake.journal().request_cancel(RUN)
    fake.pods.silent = True
    fake.loop().once(RUN)
    fake.pods.silent = False
    fake.later(8 * 3600)
    assert fake.loop().drive(RUN).phase is Phase.CANCELLED


def test_another_machines_pods_are_not_judged_from_here(fake: FakeWorld) -> None:
    fake.start()
    fake.loop().once(RUN)
    fake.pods.place = "another machine"
    with pytest.raises(UsageError, match="another machine"):
        fake.loop().drive(RUN)
    assert fake.pods.existing


# Refusals of the provider.


def test_an_unclear_error_of_create_is_no_refusal(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.start()
    real = fake.pods.create

    def unclear(spec: PodSpec) -> Pod:
        monkeypatch.setattr(fake.pods, "create", real)
        real(spec)
        raise PodError("502")

    monkeypatch.setattr(fake.pods, "create", unclear)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and len(fake.pods.created) == 1
    assert charged_dollars(record.attempts[0], fake.store.now()) > 0


def test_refusals_without_end_end_the_run(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: PodSpec) -> Pod:
        raise CreateRefused("a wrong request")

    monkeypatch.setattr(fake.pods, "create", refuse)
    record = fake.run()
    assert record.phase is Phase.FAILED and outcome(record).exit_code is Exit.INFRASTRUCTURE
    assert sum(charged_dollars(item, fake.store.now()) for item in record.attempts) == 0


def test_two_pods_of_one_name_are_charged_twice(fake: FakeWorld) -> None:
    fake.start()
    fake.loop().once(RUN)
    fake.pods.create(fake.pods.created[0])
    record = fake.loop().once(RUN)
    attempt = record.attempts[0]
    fake.later(3600)
    assert len(attempt.pod_ids) == 2 and charged_dollars(attempt, fake.store.now()) >= 1.0


# What a pod writes.


@pytest.mark.parametrize("kind", ["claim", "heartbeat", "events", "receipt"])
@pytest.mark.parametrize(
    "content",
    [
        b'{"v":"1.0","run_id":"run-1","attempt":1,"life":1,"seq":1,"at":"9999-12-31T23:59:59-14:00",'
        b'"stage":"training","kind":"warning","message":"x","pod_id":"p","nonce":"n"}',
        b'{"v":"1.0","run_id":"run-1","attempt":1,"life":1,"seq":1,"at":"2026-01-01T00:00:00Z",'
        b'"kind":"progress","step":1,"total_steps":1,"epoch":1,"steps_per_second":NaN,"losses":[[1,Infinity]]}',
        b'{"v":"1.0"',
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b'{"v":"2.0"}',
    ],
)
def test_nothing_a_pod_writes_keeps_a_cancel_from_being_carried_out(
    fake: FakeWorld, kind: str, content: bytes
) -> None:
    fake.start()
    fake.loop().once(RUN)
    fake.clock.sleep(5)
    fake.pods.jobs.clear()
    prefix = keys.attempt_prefix(RUN, 1)
    where = {
        "claim": keys.claim(2),
        "heartbeat": keys.heartbeat(2),
        "events": keys.events(2),
        "receipt": keys.receipt(keys.checkpoint(f"{OUTPUT}-000002.safetensors")),
    }[kind]
    fake.store.put(prefix + where, content)
    fake.journal().request_cancel(RUN)
    assert fake.loop().drive(RUN).phase is Phase.CANCELLED
    assert fake.pods.existing == {}


def test_a_receipt_cannot_name_another_file(fake: FakeWorld) -> None:
    precious = fake.home.models_dir / "precious.safetensors"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"mine")
    fake.start()
    fake.loop().once(RUN)
    key = keys.checkpoint(f"{OUTPUT}-000002.safetensors")
    vouch(fake, ArtefactKind.CHECKPOINT, key, b"evil", name="precious.safetensors")
    fake.loop().once(RUN)
    assert precious.read_bytes() == b"mine"


def test_a_receipt_of_another_kind_or_epoch_vouches_for_nothing(fake: FakeWorld) -> None:
    fake.start()
    fake.loop().once(RUN)
    key = keys.checkpoint(f"{OUTPUT}-000002.safetensors")
    vouch(fake, ArtefactKind.SAMPLES, key, b"evil")
    assert fake.loop().once(RUN).brought == ()
    vouch(fake, ArtefactKind.CHECKPOINT, key, b"evil", epoch=4)
    assert fake.loop().once(RUN).brought == ()


@pytest.mark.parametrize(
    "scores",
    [
        b"not json",
        b'{"v":"1.0","run_id":"run-1","attempt":1,"life":1,"at":"2026-01-01T00:00:00Z","epoch":2,"images":1,'
        b'"seconds":1,"attributes":{"hair":{"n":1,"hits":1,"low":NaN,"high":1}}}',
        b'{"v":"1.0","run_id":"run-1","attempt":1,"life":1,"at":"2026-01-01T00:00:00Z","epoch":2,"images":1,'
        b'"seconds":1,"attributes":{"hair":{"n":1,"hits":99,"low":0,"high":1}}}',
        b'{"v":"1.0","run_id":"run-1","attempt":9,"life":1,"at":"2026-01-01T00:00:00Z","epoch":4,"images":1,'
        b'"seconds":1,"attributes":{}}',
    ],
)
def test_scores_that_are_none_are_named_as_missing(tmp_path: Path, scores: bytes) -> None:
    fake = FakeWorld(tmp_path, prompts=1)
    fake.start()
    fake.loop().once(RUN)
    vouch(fake, ArtefactKind.SCORES, keys.scores(2), scores)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.DONE and record.scores == ()
    assert [item.key for item in record.lost()] == [keys.scores(2)]
    assert fake.journal().read(RUN) == record.model_copy(update={"lease": None})


def test_an_oversized_message_hides_nothing_else(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from launcher import observe

    monkeypatch.setattr(observe, "MESSAGE_BYTES_MAX", 5000)
    fake.start()
    fake.loop().once(RUN)
    fake.store.put(keys.attempt_prefix(RUN, 1) + keys.heartbeat(3), b"x" * 6000)
    assert fake.loop().drive(RUN).phase is Phase.DONE


def test_what_a_pod_says_moves_no_cursor_and_stays_short(fake: FakeWorld) -> None:
    fake.pods.job_options = [
        {"fail_at_epoch": 1, "message": "x\n12:00 pod-1 confirmed gone\x1b[2J" + "y" * 10_000}
    ]
    record = fake.run()
    assert record.attempts[0].ended is not None
    message = record.attempts[0].ended.message
    assert message.isprintable() and len(message) <= 1000
    assert record.attempts[0].ended.reason is Reason.NAN_LOSS


def test_a_zombie_cannot_change_what_a_later_attempt_takes_over(tmp_path: Path) -> None:
    fake = FakeWorld(tmp_path, prompts=1)
    fake.start()
    until_a_checkpoint(fake)
    fake.pods.vanish("pod-1")
    while len(fake.pods.created) < 2:
        fake.loop().once(RUN)
        fake.clock.sleep(5)
    manifest = decode(RunManifest, fake.store.get(keys.manifest_key(RUN, 2))[0])
    assert manifest.inputs_for(InputRole.RESUME_STATE)
    for item in manifest.inputs:
        assert "/attempts/" not in item.link.url.get_secret_value()


def test_a_record_that_cannot_be_read_does_not_hide_the_others(fake: FakeWorld) -> None:
    fake.start()
    fake.store.put("records/zzz.json", b'{"v": "9.0"}')
    said: list[str] = []
    assert [record.run_id for record in fake.journal().records(said.append)] == [RUN]
    assert "zzz" in said[0]
