"""How attempts end badly: with the right reason, the right code, and everything complete in the bucket."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from job import desk, prepare, training
from job.contract import keys
from job.contract.manifest import InputRole
from job.contract.reasons import Reason
from job.errors import JobError, NotStartedError
from job.exits import ExitCode
from tests.job.bucket import Request
from tests.job.rig import DATASET, PLAN, Rig, Script, ScriptedDrawer, ScriptedTrainer, zipped

pytestmark = pytest.mark.slow

ALL = ["punk-000001.safetensors", "punk-000002.safetensors", "punk-000003.safetensors"]


@pytest.mark.parametrize(
    ("script", "reason", "code", "words", "kept"),
    [
        (Script(crash_at=4), "trainer_crashed", ExitCode.TRAINING_FAILED, "exit code 3", 1),
        (Script(kill_at=4), "trainer_crashed", ExitCode.TRAINING_FAILED, "signal 9", 1),
        (Script(nan_at=3, hang_at=4), "nan_loss", ExitCode.TRAINING_FAILED, "step 3", 1),
        (Script(nan_tensor=2), "nan_loss", ExitCode.TRAINING_FAILED, "not finite", 1),
        (Script(wrong_rank=8), "trainer_crashed", ExitCode.TRAINING_FAILED, "rank 8", 0),
        (Script(skip=(2,)), "trainer_crashed", ExitCode.TRAINING_FAILED, ALL[1], 2),
        (
            Script(chatter=("torch.OutOfMemoryError: CUDA out of memory.\n",), crash_at=1),
            "out_of_memory",
            ExitCode.TRAINING_FAILED,
            "out of memory",
            0,
        ),
        (
            Script(chatter=("OSError: [Errno 28] No space left on device\n",), crash_at=1),
            "disk_full",
            ExitCode.MACHINE_FAILED,
            "ran out of disk",
            0,
        ),
    ],
)  # fmt: skip
def test_a_failing_trainer(
    rig: Rig, script: Script, reason: str, code: ExitCode, words: str, kept: int
) -> None:
    rig.trainer = ScriptedTrainer(script)
    assert rig.run() is code
    (failed,) = rig.said("failed")
    assert failed.reason == reason and words in failed.message
    assert rig.events()[-1] == failed
    assert len(rig.vouched()) == kept


def test_a_kill_with_signs_of_scarce_memory_is_a_guess_that_says_so(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter((0, 1))
    monkeypatch.setattr(training, "_kernel_kills", lambda: next(counts))
    rig.trainer = ScriptedTrainer(Script(kill_at=1))
    assert rig.run() is ExitCode.TRAINING_FAILED
    (failed,) = rig.said("failed")
    assert failed.reason == "out_of_memory" and "guess" in failed.message


def test_a_stalled_trainer(rig: Rig) -> None:
    rig.timing = rig.timing.model_copy(update={"step_stall_seconds": 2.0})
    rig.trainer = ScriptedTrainer(Script(hang_at=3))
    assert rig.run() is ExitCode.TRAINING_FAILED
    (failed,) = rig.said("failed")
    assert failed.reason == "stalled" and "2 seconds" in failed.message
    assert rig.vouched() == ALL[:1]


def stop_once(rig: Rig, done: Callable[[], bool]) -> None:
    """Let `stop_at` come at a heartbeat that finds something done: no test waits for a clock."""

    def fault(request: Request) -> None:
        if (world := rig.world) is not None and done():
            stop = JobError(Reason.STOP_AT, "stop_at came")
            world.watchdog.at_stop(datetime.now(UTC), lambda: world.stop.request(stop))

    rig.bucket.fault = fault


def test_stop_at_brings_home_what_is_there(rig: Rig) -> None:
    stop_once(rig, lambda: rig.receipt(keys.STATE_SLOTS[0]) is not None)
    rig.trainer = ScriptedTrainer(Script(hang_at=3))
    assert rig.run() is ExitCode.STOPPED
    (failed,) = rig.said("failed")
    assert failed.reason == "stop_at"
    assert rig.vouched() == ALL[:1]
    state = rig.receipt(keys.STATE_SLOTS[0])
    assert state and state.epoch == 1


def test_stop_at_cuts_the_evaluation_short(rig: Rig) -> None:
    rig.plan, rig.drawer = PLAN, ScriptedDrawer("hang")
    stop_once(rig, lambda: bool(rig.drawer.tasks))
    assert rig.run() is ExitCode.STOPPED
    assert rig.vouched() == ALL and rig.said("failed")[0].reason == "stop_at"


def test_a_trainer_that_ignores_sigterm_is_killed(rig: Rig) -> None:
    rig.timing = rig.timing.model_copy(update={"grace_seconds": 0.5})
    rig.trainer = ScriptedTrainer(Script(nan_at=1, hang_at=2, deaf=True))
    assert rig.run() is ExitCode.TRAINING_FAILED
    assert rig.said("failed")[0].reason == "nan_loss"


def test_a_link_that_allows_no_checkpoint_ends_the_attempt(rig: Rig) -> None:
    """Training on while nothing can be kept only costs money."""
    rig.bucket.fault = lambda r: "403" if "/checkpoints/" in r.key else None
    rig.trainer = ScriptedTrainer(Script(hang_at=3))
    assert rig.run() is ExitCode.MACHINE_FAILED
    (failed,) = rig.said("failed")
    assert failed.reason == "storage_failed" and "checkpoints/punk-000001" in failed.message


def test_a_tampered_input_is_named(rig: Rig) -> None:
    rig.inputs.append((InputRole.INIT_WEIGHTS, "start.safetensors", b"true", {}))
    environment = rig.publish()
    rig.bucket.objects[keys.input_key("run-1", "start.safetensors")] = b"fake"
    assert rig.run(environment) is ExitCode.REFUSED
    (failed,) = rig.said("failed")
    assert failed.reason == "bad_input" and "start.safetensors" in failed.message
    fetched = [r for r in rig.bucket.requests if r.key.endswith("start.safetensors")]
    assert len(fetched) == 2


def test_a_missing_input_is_named(rig: Rig) -> None:
    environment = rig.publish()
    del rig.bucket.objects[keys.input_key("run-1", "data.zip")]
    assert rig.run(environment) is ExitCode.REFUSED
    assert "data.zip" in rig.said("failed")[0].message


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([(InputRole.BASE_MODEL, "base.zip", zipped({"a": b"b"}), {})], "bad_base_model"),
        ([(InputRole.BASE_MODEL, "base.zip", b"no zip", {})], "bad_base_model"),
        ([(InputRole.BASE_MODEL, "base.ckpt", zipped({"a": b"b"}), {})], "bad_base_model"),
        ([(InputRole.BASE_MODEL, "base.safetensors", b"\xff" * 64, {})], "bad_base_model"),
        ([], "bad_input"),
        (
            [
                (InputRole.BASE_MODEL, "base.zip", zipped({"model_index.json": b"{}"}), {}),
                (InputRole.INIT_WEIGHTS, "w.safetensors", b"\x10\0\0\0\0\0\0\0{}", {}),
            ],
            "bad_init_weights",
        ),
    ],
)  # fmt: skip
def test_inputs_of_the_wrong_kind(rig: Rig, inputs: list[object], reason: str) -> None:
    rig.inputs = inputs  # type: ignore[assignment]
    assert rig.run() is ExitCode.REFUSED
    assert rig.said("failed")[0].reason == reason


def test_a_bad_dataset_is_refused_before_training(rig: Rig) -> None:
    rig.dataset = zipped({name: data for name, data in DATASET.items() if not name.endswith("b.txt")})
    assert rig.run() is ExitCode.REFUSED
    (failed,) = rig.said("failed")
    assert failed.reason == "bad_dataset" and "b.jpg" in failed.message
    assert not rig.trainer.tasks


def test_a_full_disk_is_refused_with_figures(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "free_bytes", lambda folder: 30_000_000)
    assert rig.run() is ExitCode.MACHINE_FAILED
    (failed,) = rig.said("failed")
    assert failed.reason == "disk_full"
    assert (
        "30 MB are free" in failed.message
        and "estimated" in failed.message
        and "checkpoints" in failed.message
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"v": "2.0"}, "schema version"),
        ({"attempt": 2}, "attempt 2"),
        ({"stop_at": "2020-01-01T00:00:00Z", "hard_deadline": "2020-01-02T00:00:00Z"}, "has passed"),
        ({"recipe": {"lora_dim": 0}}, "lora_dim"),
    ],
)
def test_a_manifest_that_is_not_meant_for_this_pod(rig: Rig, changes: dict[str, object], words: str) -> None:
    environment = rig.publish(json.dumps(json.loads(rig.manifest().encode()) | changes).encode())
    with pytest.raises(NotStartedError, match=words):
        rig.run(environment)
    assert not [r for r in rig.bucket.requests if r.method == "PUT"]


def test_a_manifest_that_is_not_there_is_final_after_a_few_tries(rig: Rig) -> None:
    environment = rig.publish()
    rig.bucket.objects.clear()
    with pytest.raises(NotStartedError, match="HTTP 404"):
        rig.run(environment)
    assert 1 < len(rig.bucket.requests) < 10


def test_storage_that_stays_away_fails_at_the_deadline(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads are tried until shortly before the hard deadline; there is nobody left to tell."""
    monkeypatch.setattr(desk, "UPLOADS_END_SECONDS", 4)
    monkeypatch.setattr(desk, "LAST_WORD_SECONDS", 2)
    rig.stop_in, rig.deadline_in = 2, 7

    def fault(request: Request) -> str | None:
        return "503" if request.method == "PUT" and "/claim" not in request.key else None

    rig.bucket.fault = fault
    assert rig.run() is ExitCode.MACHINE_FAILED
    assert not rig.ended_by_watchdog


def test_an_unknown_trainer(rig: Rig) -> None:
    manifest = json.loads(rig.manifest().encode()) | {"trainer": "kohya"}
    assert rig.run(rig.publish(json.dumps(manifest).encode())) is ExitCode.REFUSED
    assert "kohya" in rig.said("failed")[0].message
