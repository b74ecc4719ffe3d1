"""What a pod writes that was tampered with: nothing of it is trusted."""

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from job.contract import keys
from job.contract.events import Progress, TrainingStarted
from job.contract.manifest import ArtefactKind, InputRole, RunManifest
from job.contract.reasons import Reason
from job.contract.records import Receipt
from job.contract.schema import decode
from launcher.model import Phase
from tests.launcher.world import OUTPUT, RUN, FakeWorld


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


def test_a_log_tells_of_its_own_life_alone(fake: FakeWorld) -> None:
    """Of thousands of lives each may claim a month of training: no date is so early."""
    fake.start()
    fake.loop().once(RUN)
    fake.clock.sleep(5)
    fake.pods.jobs.clear()
    log = b""
    for life in range(2, 30):
        since = {"run_id": RUN, "attempt": 1, "life": life, "total_steps": 9, "at": fake.store.at}
        started = TrainingStarted.model_validate(
            since | {"seq": 2 * life, "steps_per_epoch": 9, "total_epochs": 1}
        )
        later = {"seq": 2 * life + 1, "at": fake.store.at + timedelta(days=29), "step": 9, "epoch": 1}
        log += started.encode() + b"\n" + Progress.model_validate(since | later).encode() + b"\n"
    fake.store.put(keys.attempt_prefix(RUN, 1) + keys.events(2), log)
    assert fake.loop().once(RUN).attempts[0].pace.steps == 9


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
    fake.until_a_checkpoint()
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
