"""Whole lives of the job against a bucket and a scripted trainer, all going well or nearly so."""

import io
import json
import threading
import zipfile
from dataclasses import replace

import httpx
import pytest
from pydantic import SecretStr

from job.contract import keys
from job.contract.manifest import InputRole
from job.contract.records import ArtefactKind, Heartbeat, Scores, Stage
from job.contract.schema import decode
from job.environment import OwnPod
from job.errors import AlreadyOverError, SupersededError
from job.exits import ExitCode
from job.provider import Provider
from job.state import pack
from tests.job.bucket import SALT, Request, signature
from tests.job.rig import PLAN, RULER, Rig, Script, ScriptedDrawer, ScriptedTrainer

pytestmark = pytest.mark.slow

ALL = ["punk-000001.safetensors", "punk-000002.safetensors", "punk-000003.safetensors"]
HOUR = 3600


def with_ruler(rig: Rig) -> None:
    rig.plan = PLAN
    rig.inputs.append((InputRole.RULER, "ruler.json", json.dumps(RULER).encode(), {}))


def test_everything_reaches_the_bucket(rig: Rig) -> None:
    with_ruler(rig)
    assert rig.run() is ExitCode.FINISHED
    assert rig.vouched() == ALL
    events = rig.events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    kinds = [event.kind for event in events]
    assert kinds[:3] == ["booted", "claimed", "prepared"]
    assert kinds[-1] == "finished" and kinds.count("checkpoint") == 3
    told = [pair for event in rig.said("progress") for pair in event.losses]
    assert [step for step, _ in told] == [1, 2, 3, 4, 5, 6]
    assert rig.said("prepared")[0].images == 2
    task = rig.trainer.tasks[0]
    assert task.data_dir.name == "data" and task.base_model.name == "tiny"
    for epoch in (0, 1, 2, 3):
        with zipfile.ZipFile(io.BytesIO(rig.bucket.objects[rig.key(keys.samples(epoch))])) as drawn:
            assert drawn.namelist() == ["p1.png", "p2.png"]
        scores = decode(Scores, rig.bucket.objects[rig.key(keys.scores(epoch))])
        assert (scores.attributes["split"].n, scores.attributes["split"].hits) == (2, 1)
        receipts = [rig.receipt(keys.scores(epoch)), rig.receipt(keys.samples(epoch))]
        assert [receipt and receipt.step for receipt in receipts] == [2 * epoch, 2 * epoch]
    canvases = rig.drawer.tasks[0].canvases
    assert [(c.epoch, c.lora is None) for c in canvases] == [(0, True), (1, False), (2, False), (3, False)]
    assert rig.said("evaluated")[0].hits == {"split": (1, 2)}
    beat = decode(Heartbeat, rig.bucket.objects[rig.key(keys.heartbeat(1))])
    assert (beat.stage, beat.step) == (Stage.FINISHING, 6)
    assert all(agent.startswith("retrain-job/") for agent in rig.bucket.user_agents)
    assert not list((rig.folder / "scratch").iterdir()), "the disk is cleared"


def test_no_secret_leaves_the_job(rig: Rig) -> None:
    """The trainer prints its own environment and a presigned URL; nothing of it may come out anywhere."""
    rig.publish()
    url = rig.bucket.link("PUT", "x", rig.manifest().stop_at).url.get_secret_value()
    rig.trainer = ScriptedTrainer(Script(crash_at=6, chatter=(f"see {url}\n", f"{signature('PUT', 'x')}\n")))
    rig.run(RUNPOD_API_KEY="rpa_planted_key_of_the_pod")
    said = b"".join(
        data
        for key, data in rig.bucket.objects.items()
        if "/lives/" in key and not key.endswith("claim.json")
    )
    assert b"see http://127.0.0.1" in said and b"[hidden]" in said
    secrets = {signature(r.method, r.key) for r in rig.bucket.requests} | {
        SALT,
        "X-Amz-Expires",
        "rpa_planted",
    }
    assert not [secret for secret in secrets if secret.encode() in said]


def test_the_child_gets_no_secret(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = rig.folder / "go"
    for name in ("RUNPOD_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "RETRAIN_MANIFEST_URL"):
        monkeypatch.setenv(name, "planted")
    rig.trainer = ScriptedTrainer(Script(chatter=("x" * 10 + "\n",), hold=str(hold)))
    seen: list[dict[str, str]] = []

    def look(request: Request) -> None:
        for path in (rig.folder / "scratch").rglob("environment.json"):
            seen.append(json.loads(path.read_text() or "{}"))

    rig.bucket.fault = look
    assert rig.run() is ExitCode.FINISHED
    names = set(seen[-1])
    assert "PATH" in names
    assert "planted" not in seen[-1].values()
    assert not [name for name in names if name.startswith(("RETRAIN_", "RUNPOD_", "AWS_"))]


def test_what_the_pods_key_sees_is_told_as_a_hint(rig: Rig) -> None:
    key = "rpa_planted_key_of_the_pod"

    def answer(request: httpx.Request) -> httpx.Response:
        said = rig.bucket.objects.get(rig.key(keys.events(1)), b"")
        while request.method == "GET" and b"training_started" not in said:  # as slow as can be
            rig.bucket.wait_until(lambda: rig.said("training_started"))
            said = rig.bucket.objects[rig.key(keys.events(1))]
        hold.touch()
        return httpx.Response(403, text=key)

    hold = rig.folder / "go"
    rig.trainer = ScriptedTrainer(Script(pause_at=3, hold=str(hold)))
    own = OwnPod("pod-a", SecretStr(key), "http://provider.example")
    rig.provider = Provider(own, lambda trust_env: httpx.Client(transport=httpx.MockTransport(answer)))
    assert rig.run() is ExitCode.FINISHED
    (hinted,) = rig.said("hinted")
    assert hinted.hints == {"own_key_v2": "HTTP 403", "own_key_graphql": "HTTP 403"}
    assert key.encode() not in b"".join(rig.bucket.objects.values())


def test_a_look_around_that_hangs_holds_up_nothing(rig: Rig) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        threading.Semaphore(0).acquire()
        raise AssertionError("unreachable")

    own = OwnPod("pod-a", SecretStr("key"), "http://provider.example")
    rig.provider = Provider(own, lambda trust_env: httpx.Client(transport=httpx.MockTransport(answer)))
    assert rig.run() is ExitCode.FINISHED
    assert rig.vouched() == ALL and not rig.said("hinted")


def test_a_lost_answer_to_the_claim_is_no_foreign_claim(rig: Rig) -> None:
    claim = rig.key(keys.claim(1))
    rig.bucket.fault = lambda r: "lost" if r.method == "PUT" and r.key == claim and r.number == 1 else None
    assert rig.run() is ExitCode.FINISHED
    assert rig.vouched() == ALL and not rig.events(life=2)


def test_a_superseded_pod_writes_nothing(rig: Rig) -> None:
    assert rig.run() is ExitCode.FINISHED
    before = dict(rig.bucket.objects)
    rig.bucket.requests.clear()
    with pytest.raises(SupersededError):
        rig.run(rig.publish(before["runs/run-1/manifests/1.json"]), RETRAIN_POD_ID="pod-b")
    assert rig.bucket.objects == before
    assert [r.key for r in rig.bucket.requests if r.method == "PUT"] == [rig.key(keys.claim(1))]


def test_a_receipt_follows_its_object(rig: Rig) -> None:
    rig.bucket.fault = lambda r: "503" if r.key.endswith(".safetensors") and r.number == 1 else None
    assert rig.run() is ExitCode.FINISHED
    written = [r.key for r in rig.bucket.requests if r.method == "PUT"]
    receipts = [key for key in written if key.endswith(keys.RECEIPT_SUFFIX)]
    assert receipts
    for receipt in receipts:
        artefact = receipt.removesuffix(keys.RECEIPT_SUFFIX)
        assert artefact in written[: written.index(receipt)]
        if not artefact.startswith(rig.key("state/")):  # slots are written again and again
            assert artefact not in written[written.index(receipt) :]


def test_a_last_word_is_not_spoken_twice(rig: Rig) -> None:
    rig.trainer = ScriptedTrainer(Script(nan_at=3))
    assert rig.run() is ExitCode.TRAINING_FAILED
    with pytest.raises(AlreadyOverError):
        rig.run()
    assert not rig.bucket.objects.get(rig.key(keys.claim(2)))


def interrupt(rig: Rig, script: Script, *, when: str, life: int = 1) -> None:
    """End a life as a container's end would: no last word. `when` names the object whose writing ends it."""

    def end() -> None:
        assert rig.world is not None
        rig.world.terminate()

    rig.trainer = ScriptedTrainer(script)
    rig.bucket.on_put[rig.key(when)] = end
    assert rig.run() is ExitCode.TERMINATED
    rig.bucket.on_put.clear()
    assert not [event for event in rig.events(life) if event.terminal]


def interrupt_after_two_states(rig: Rig) -> None:
    """A life that leaves a state in each slot: epoch 1 in the first, epoch 2 in the second."""
    hold = rig.folder / "go"
    rig.bucket.on_put[rig.key(keys.receipt(keys.STATE_SLOTS[0]))] = hold.touch
    interrupt(rig, Script(pause_at=3, hold=str(hold), hang_at=5), when=keys.receipt(keys.STATE_SLOTS[1]))


def test_a_second_life_goes_on(rig: Rig) -> None:
    with_ruler(rig)
    interrupt_after_two_states(rig)
    assert rig.vouched() == ALL[:2]
    first = {key: rig.bucket.objects[rig.key(keys.checkpoint(key))] for key in ALL[:2]}
    rig.trainer = ScriptedTrainer(Script())
    assert rig.run() is ExitCode.FINISHED
    resume = rig.trainer.tasks[0].resume
    assert resume and (resume.epoch, resume.step) == (2, 4)
    assert rig.said("prepared", life=2)[0].resumed_step == 4
    assert [event.name for event in rig.said("checkpoint", life=2)] == ALL[2:]
    assert rig.vouched() == ALL
    assert {key: rig.bucket.objects[rig.key(keys.checkpoint(key))] for key in ALL[:2]} == first
    assert [event.epoch for event in rig.said("evaluated", life=2)] == [0, 1, 2, 3], "fetched from the bucket"


def test_a_second_life_only_evaluates_what_is_left(rig: Rig) -> None:
    with_ruler(rig)
    rig.drawer = ScriptedDrawer("hang-2")
    interrupt(rig, Script(), when=keys.receipt(keys.scores(1)))
    rig.trainer, rig.drawer = ScriptedTrainer(Script()), ScriptedDrawer()
    assert rig.run() is ExitCode.FINISHED
    assert not rig.trainer.tasks, "all checkpoints are vouched for"
    assert [canvas.epoch for canvas in rig.drawer.tasks[0].canvases] == [2, 3]
    assert [event.epoch for event in rig.said("evaluated", life=2)] == [2, 3]


def test_a_torn_state_slot_gives_way_to_the_older_one(rig: Rig) -> None:
    interrupt_after_two_states(rig)
    rig.bucket.objects[rig.key(keys.STATE_SLOTS[1])] += b"more"
    rig.trainer = ScriptedTrainer(Script())
    assert rig.run() is ExitCode.FINISHED
    resume = rig.trainer.tasks[0].resume
    assert resume and (resume.epoch, resume.step) == (1, 2)
    assert any("state/b.tar" in event.message for event in rig.said("warning", life=2))


def test_four_lives_are_too_many(rig: Rig) -> None:
    for life in keys.lives():
        interrupt(rig, Script(hang_at=1), when=keys.claim(life), life=life)
    with pytest.raises(AlreadyOverError, match="more than 3 times"):
        rig.run()


def test_the_next_attempt_resumes_from_the_manifests_state(rig: Rig) -> None:
    folder = rig.folder / "state"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"epoch": 2, "step": 4}))
    pack(folder, rig.folder / "state.tar")
    state = (rig.folder / "state.tar").read_bytes()
    with_ruler(rig)
    rig.attempt = 2
    rig.inputs.append((InputRole.RESUME_STATE, "state.tar", state, {"epoch": 2, "step": 4}))
    rig.inputs.append((InputRole.CHECKPOINT, ALL[1], b"of attempt 1", {"epoch": 2, "step": 4}))
    assert rig.run() is ExitCode.FINISHED
    assert rig.vouched() == ALL[2:], "earlier ones are home already"
    assert [event.epoch for event in rig.said("evaluated")] == [0, 2, 3]
    assert any("epoch 1 cannot be drawn" in event.message for event in rig.said("warning"))


def test_a_state_waits_for_its_checkpoints(rig: Rig) -> None:
    """Who resumes from epoch 2 never writes checkpoint 1 again: its receipt must come first."""
    assert rig.run() is ExitCode.FINISHED
    order = [r.key for r in rig.bucket.requests if r.method == "PUT" and r.key.endswith(keys.RECEIPT_SUFFIX)]
    place = {key: index for index, key in enumerate(order)}
    for slot in keys.STATE_SLOTS:
        receipt = rig.receipt(slot)
        if receipt is not None:
            assert receipt.kind is ArtefactKind.STATE
            checkpoint = keys.receipt(keys.checkpoint(ALL[receipt.epoch - 1]))
            assert place[rig.key(checkpoint)] < place[rig.key(keys.receipt(slot))]


def test_storage_that_is_down_for_a_while_costs_nothing(rig: Rig) -> None:
    """Every key fails a few times, in each way there is."""
    ways = ("503", "drop", "lost", None, "cut")
    rig.bucket.fault = lambda r: ways[(r.number + len(r.key)) % 5] if r.number <= 2 else None
    rig.plan = PLAN
    assert rig.run() is ExitCode.FINISHED
    assert rig.vouched() == ALL
    events = rig.events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].kind == "finished"


def test_unreported_and_unnumbered_checkpoints_are_found(rig: Rig) -> None:
    rig.trainer = ScriptedTrainer(Script(silent=True, unnumbered=True, states=False))
    assert rig.run() is ExitCode.FINISHED
    assert rig.vouched() == ALL


def test_a_half_written_checkpoint_is_waited_for(rig: Rig) -> None:
    hold = rig.folder / "go"
    rig.trainer = ScriptedTrainer(Script(half_written=2, hold=str(hold)))
    told: list[bool] = []

    def fault(request: Request) -> str | None:
        if request.key == rig.key(keys.heartbeat(1)) and rig.vouched() == ALL[:1]:
            told.append(True)
            if len(told) > 4:
                hold.touch()
        return None

    rig.bucket.fault = fault
    assert rig.run() is ExitCode.FINISHED
    assert rig.vouched() == ALL


def test_an_untrained_checkpoint_is_kept_and_told_of(rig: Rig) -> None:
    rig.trainer = ScriptedTrainer(Script(untrained=True))
    assert rig.run() is ExitCode.FINISHED
    assert rig.vouched() == ALL
    assert "changes nothing" in rig.said("warning")[0].message


@pytest.mark.parametrize(("mode", "drawn"), [("fail-2", [0, 1, 3]), ("fail", [])])
def test_a_failing_evaluation_is_a_warning(rig: Rig, mode: str, drawn: list[int]) -> None:
    with_ruler(rig)
    rig.drawer = ScriptedDrawer(mode)
    assert rig.run() is ExitCode.FINISHED
    assert rig.vouched() == ALL
    assert [event.epoch for event in rig.said("evaluated")] == drawn
    assert any("no such model" in event.message for event in rig.said("warning"))


def test_a_broken_ruler_leaves_the_images(rig: Rig) -> None:
    rig.plan = PLAN.model_copy(update={"measure_start": False})
    rig.inputs.append((InputRole.RULER, "ruler.json", b"{}", {}))
    assert rig.run() is ExitCode.FINISHED
    assert len(rig.said("sampled")) == 3 and not rig.said("evaluated")


def test_the_log_holds_the_trainers_words_once(rig: Rig) -> None:
    bar = "".join(f"\rsteps: {n}%" for n in range(0, 101, 10)) + "\n"
    rig.trainer = ScriptedTrainer(replace(Script(), chatter=("起動\n", bar)))
    assert rig.run() is ExitCode.FINISHED
    log = rig.bucket.objects[rig.key(keys.log(1))].decode()
    assert "起動" in log
    assert log.count("%") < 11
