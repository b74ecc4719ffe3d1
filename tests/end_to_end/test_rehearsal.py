"""Whole nights at a simulated RunPod: the real launcher, the real S3 server, the real job, real kills."""

from pathlib import Path

import pytest

from tests.end_to_end.conftest import until
from tests.rehearsal.faults import mishap
from tests.rehearsal.night import night
from tests.rehearsal.truth import broken, receipt
from tests.simulators.runpod import KeyRights
from tests.simulators.runpod.faults import TERMINATIONS

pytestmark = pytest.mark.slow


def test_a_night_in_which_much_goes_wrong(tmp_path: Path) -> None:
    names = ("no-capacity", "list-lag", "bad-gateway", "terminate-loses-answer", "host-kill")
    mishaps = [mishap(name) for name in names]
    with night(tmp_path) as stage:
        code = stage.play("run", mishaps=mishaps)
        assert (code, broken(stage, mishaps)) == (0, []), stage.commands[-1].said.decode()
        assert receipt(stage).count("gone") == 2


def test_a_night_whose_launcher_is_killed(tmp_path: Path) -> None:
    with night(tmp_path) as stage:
        launcher = stage.start("run")
        assert stage.after_a_state(launcher) is not None, launcher.said.decode()
        launcher.kill()
        code = stage.play("attach", mishaps=[])
        assert (code, broken(stage)) == (0, []), stage.commands[-1].said.decode()
        assert len([pod for pod in stage.simulator.pods if not pod.stranger]) == 1


def test_a_night_whose_launchers_are_killed_for_good(tmp_path: Path) -> None:
    """Nobody outside looks after the pod, and its key is good for the old API alone: it still ends itself."""
    with night(tmp_path) as stage:
        stage.simulator.faults.conditions.pod_key_rights = KeyRights.GRAPHQL
        launcher = stage.start("run")
        assert stage.after_a_state(launcher) is not None, launcher.said.decode()
        stage.kill_everybody()
        until(lambda: not stage.simulator.existing, "the end of the pod", seconds=600)
        assert [pod.ended_by for pod in stage.simulator.pods if not pod.stranger] == ["itself"]
        asked = [record for record in stage.simulator.records if not record.by_pod]
        assert not [record for record in asked if record.operation in TERMINATIONS]
        codes = [stage.play("reconcile", mishaps=[]) for _ in range(6)]
        assert (codes, broken(stage)) == ([0] * 6, []), stage.commands[-1].said.decode()


def test_what_does_not_hold_is_said(tmp_path: Path) -> None:
    mishaps = [mishap("host-kill"), mishap("no-capacity")]
    with night(tmp_path) as stage:
        pod = stage.simulator.add_stranger("retrain-rehearsal")
        pod.stranger = False
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "note.txt").write_text(f"it was {stage.simulator.account_key}")
        stage.store.put("runs/r/attempts/1/log.txt", b"GET http://store/a?x=1&X-Amz-Signature=0f")
        assert broken(stage, mishaps) == [
            "it did not happen that the first GPU wanted is not to be had",
            "1 pods were to be struck by their hosts, 0 were",
            f"pod {pod.pod_id} (retrain-rehearsal) still exists",
            "the run is not done: there is no run.json",
            *(f"rehearsal-{epoch:06d}.safetensors was never made" for epoch in (1, 2, 3, 4)),
            "no epoch was selected",
            f"the account's key is in {tmp_path}/models/note.txt",
            "a presigned link is in the bucket's runs/r/attempts/1/log.txt",
        ]
