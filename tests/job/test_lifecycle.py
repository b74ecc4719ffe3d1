"""Whole lives of the job against a bucket and a scripted trainer."""

import io
import json
import zipfile

import pytest

from job.contract import keys
from job.contract.manifest import InputRole
from job.contract.records import Scores
from job.contract.schema import decode
from job.exits import ExitCode
from tests.job.rig import PLAN, RULER, Rig, Script, ScriptedTrainer

pytestmark = pytest.mark.slow

ALL = ["punk-000001.safetensors", "punk-000002.safetensors", "punk-000003.safetensors"]


def test_happy_path(rig: Rig) -> None:
    rig.plan = PLAN
    rig.inputs.append((InputRole.RULER, "ruler.json", json.dumps(RULER).encode(), {}))
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
        assert rig.receipt(keys.scores(epoch)) and rig.receipt(keys.samples(epoch))
    canvases = rig.drawer.tasks[0].canvases
    assert [(c.epoch, c.lora is None) for c in canvases] == [(0, True), (1, False), (2, False), (3, False)]
    assert rig.said("evaluated")[0].hits == {"split": (1, 2)}
    assert rig.bucket.user_agents == {
        agent for agent in rig.bucket.user_agents if agent.startswith("retrain-job/")
    }
    assert not list((rig.folder / "scratch").iterdir())


def test_crash(rig: Rig) -> None:
    rig.trainer = ScriptedTrainer(Script(crash_at=4))
    assert rig.run() is ExitCode.TRAINING_FAILED
    failed = rig.said("failed")
    assert failed[0].reason == "trainer_crashed" and "it broke" in failed[0].message
    assert rig.vouched() == ALL[:1]
