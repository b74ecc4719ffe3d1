"""The wire is pinned: what was once written must stay readable, and what is written must not drift.

A deliberate change of the schema is made with `python -m tests.contract.test_golden`: it writes them anew.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.contract import events, keys
from job.contract.events import Event, UnknownEvent, decode_event, decode_log
from job.contract.manifest import (
    EvaluationPlan,
    Input,
    InputRole,
    Link,
    Links,
    RunManifest,
    SamplePrompt,
    expected_artefacts,
)
from job.contract.reasons import Reason
from job.contract.recipe import Recipe, TrainerName
from job.contract.records import ArtefactKind, Claim, Heartbeat, Receipt, Score, Scores, Stage
from job.contract.schema import ContractError, Message, decode

FOLDER = Path(__file__).parent / "golden"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECRET = "https://bucket.example/key?X-Amz-Signature=secret"
LINK = Link.model_validate({"url": SECRET, "expires_at": AT})
HEAD = {"run_id": "run-1", "attempt": 1, "life": 1, "at": AT}


def manifest() -> RunManifest:
    recipe = Recipe(output_name="punks", max_epochs=2)
    plan = EvaluationPlan(prompts=(SamplePrompt(name="000", prompt="a face", seed=1, asked={"hat": "cap"}),))
    durable = expected_artefacts(recipe, plan)
    return RunManifest(
        run_id="run-1",
        attempt=1,
        trainer=TrainerName.DIFFUSERS,
        recipe=recipe,
        inputs=(Input(role=InputRole.DATASET, name="dataset.zip", bytes=3, sha256="a" * 64, link=LINK),),
        evaluation=plan,
        stop_at=AT,
        hard_deadline=AT.replace(hour=5),
        links=Links(
            get=dict.fromkeys(keys.read_back(durable), LINK),
            put=dict.fromkeys(keys.overwritten(durable), LINK),
            create=dict.fromkeys(keys.created_once(), LINK),
        ),
    )


MESSAGES: dict[str, Message] = {
    "manifest": manifest(),
    "claim": Claim(**HEAD, pod_id="pod-1", nonce="n"),
    "heartbeat": Heartbeat(**HEAD, stage=Stage.TRAINING, epoch=1, step=2, disk_free_bytes=3),
    "receipt": Receipt(
        **HEAD,
        kind=ArtefactKind.CHECKPOINT,
        key="checkpoints/punks-000002.safetensors",
        name="punks-000002.safetensors",
        epoch=2,
        step=4,
        bytes=5,
        sha256="b" * 64,
    ),
    "scores": Scores(
        **HEAD, epoch=2, images=8, attributes={"hat": Score(n=8, hits=4, low=0.2, high=0.8)}, seconds=1.5
    ),
}
EVENTS: tuple[Event, ...] = (
    events.Booted(**HEAD, seq=1, pod_id="pod-1", version="0.1.0", hints={"gpu": "A40"}),
    events.Claimed(**HEAD, seq=2, nonce="n"),
    events.Prepared(**HEAD, seq=3, images=203, bytes=1, disk_free_bytes=2, disk_needed_bytes=1),
    events.TrainingStarted(**HEAD, seq=4, total_steps=5080, steps_per_epoch=508, total_epochs=10),
    events.Progress(
        **HEAD, seq=5, step=2, total_steps=5080, epoch=1, steps_per_second=2.5, losses=((1, 0.5), (2, 0.4))
    ),
    events.CheckpointUploaded(
        **HEAD, seq=6, name="punks-000002.safetensors", epoch=2, step=4, bytes=5, sha256="b" * 64
    ),
    events.Sampled(**HEAD, seq=7, epoch=2, images=8, seconds=1.5),
    events.Evaluated(**HEAD, seq=8, epoch=2, hits={"hat": (4, 8)}),
    events.Warned(**HEAD, seq=9, message="slow"),
    events.Hinted(**HEAD, seq=10, hints={"own_key_v2": "sees its pod"}),
    events.Failed(**HEAD, seq=11, reason=Reason.NAN_LOSS, message="loss is NaN at step 3"),
    events.Finished(**HEAD, seq=12, epochs=10, step=5080),
)


def written() -> dict[str, bytes]:
    files = {f"{name}.json": message.encode() + b"\n" for name, message in MESSAGES.items()}
    files["events.jsonl"] = b"".join(event.encode() + b"\n" for event in EVENTS)
    return files


@pytest.mark.parametrize("name", sorted(written()))
def test_writers_have_not_drifted(name: str) -> None:
    assert (FOLDER / name).read_bytes() == written()[name]


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_readers_read_what_was_once_written(name: str) -> None:
    assert decode(type(MESSAGES[name]), (FOLDER / f"{name}.json").read_bytes()) == MESSAGES[name]


def test_the_event_log_is_read_in_order_without_replays() -> None:
    lines = (FOLDER / "events.jsonl").read_bytes().splitlines(keepends=True)
    assert decode_log(b"".join([*lines[5:], *lines, b"{torn"])) == EVENTS
    assert {event.kind for event in EVENTS} == set(events.KINDS)
    assert [event.kind for event in EVENTS if event.terminal] == ["failed", "finished"]


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_unknown_fields_are_tolerated_and_another_major_is_refused(name: str) -> None:
    fields = json.loads((FOLDER / f"{name}.json").read_bytes())
    newer = json.dumps({**fields, "v": "1.9", "new_field": {"x": 1}}).encode()
    assert decode(type(MESSAGES[name]), newer).model_copy(update={"v": "1.0"}) == MESSAGES[name]
    with pytest.raises(ContractError, match="schema version"):
        decode(type(MESSAGES[name]), json.dumps({**fields, "v": "2.0"}).encode())


def test_an_unknown_kind_of_event_is_kept() -> None:
    line = json.dumps(
        {**HEAD, "at": AT.isoformat(), "v": "1.4", "seq": 3, "kind": "rained", "mm": 4}
    ).encode()
    event = decode_event(line)
    assert isinstance(event, UnknownEvent) and event.kind == "rained"
    assert event.model_extra == {"mm": 4}


def test_no_link_is_ever_shown() -> None:
    text = repr(manifest()) + str(manifest())
    assert "secret" not in text and "X-Amz" not in text
    broken = json.loads(manifest().encode())
    broken["attempt"] = "not a number"
    broken["inputs"][0]["link"]["expires_at"] = SECRET
    with pytest.raises(ContractError) as caught:
        decode(RunManifest, json.dumps(broken).encode())
    assert "secret" not in str(caught.value)


def test_a_manifest_that_lacks_a_link_is_refused() -> None:
    fields = json.loads(manifest().encode())
    del fields["links"]["put"]["lives/1/heartbeat.json"]
    with pytest.raises(ContractError, match=r"lives/1/heartbeat\.json"):
        decode(RunManifest, json.dumps(fields).encode())


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_bytes_give_a_message_or_a_contract_error(data: bytes) -> None:
    for kind in (RunManifest, Receipt, Scores):
        with pytest.raises(ContractError):
            decode(kind, data)
    with pytest.raises(ContractError):
        decode_event(data)
    assert decode_log(data) == ()


@given(max_epochs=st.integers(1, 200), save_every=st.integers(1, 200))
def test_the_last_epoch_is_always_saved(max_epochs: int, save_every: int) -> None:
    saved = Recipe(max_epochs=max_epochs, save_every=save_every).saved_epochs
    assert saved[-1] == max_epochs and list(saved) == sorted(set(saved))
    assert all(epoch % save_every == 0 for epoch in saved[:-1])


def test_the_default_recipe_is_the_manual_pages() -> None:
    recipe = Recipe()
    assert (recipe.max_epochs, recipe.save_every, recipe.resolution, recipe.batch_size) == (
        10,
        2,
        (512, 512),
        4,
    )
    assert (recipe.learning_rate, recipe.text_lr, recipe.lora_dim, recipe.lora_alpha) == (1e-4, 5e-5, 32, 16)
    assert (recipe.repeat_count, recipe.keep_tokens, recipe.max_token_length, recipe.seed) == (10, 2, 225, 42)
    assert recipe.lr_scheduler == "cosine_with_restarts" and recipe.optimizer == "AdamW8bit"
    assert recipe.saved_epochs == (2, 4, 6, 8, 10)
    assert recipe.checkpoint_name(2) == "lora-000002.safetensors"


if __name__ == "__main__":
    for name, data in written().items():
        (FOLDER / name).write_bytes(data)
