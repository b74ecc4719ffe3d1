"""Whole runs through the command line: real S3 server, real pod, real training, real kills."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.conftest import EPOCHS, OUTPUT, STEPS_PER_EPOCH, Workspace, until

pytestmark = pytest.mark.slow

SAVED = [2, 4, 6]
SECRET = re.compile(rb"X-Amz-Signature=[0-9a-f]{8}|X-Amz-Credential=")


def assert_complete(workspace: Workspace, result: dict[str, Any]) -> None:
    assert result["phase"] == "done" and result["exit_code"] == 0
    assert [item["epoch"] for item in result["checkpoints"]] == SAVED
    for item in result["checkpoints"]:
        data = Path(item["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (item["bytes"], item["sha256"])
        assert item["step"] == item["epoch"] * STEPS_PER_EPOCH
        assert item["name"] == f"{OUTPUT}-{item['epoch']:06d}.safetensors"
    models = workspace.folder / "models"
    chosen = next(item for item in result["checkpoints"] if item["epoch"] == result["selected"]["epoch"])
    assert (models / f"{OUTPUT}.safetensors").read_bytes() == Path(chosen["path"]).read_bytes()
    for epoch in [0, *SAVED]:
        assert len(list((models / OUTPUT / "samples" / f"epoch-{epoch:06d}").glob("*.png"))) == 2
    assert result["teardown"]["confirmed"] and workspace.pods() == []
    assert all(pod["gone_at"] for pod in result["teardown"]["pods"])


def assert_no_secret(workspace: Workspace) -> None:
    """Presigned queries and the store's keys must be nowhere but in the bucket itself and its key file."""
    keys = (workspace.folder / ".retrain/store/server.json").read_bytes()
    planted = [
        value.encode() for value in re.findall(r'"(?:secret_key|access_key)": "([^"]+)"', keys.decode())
    ]
    assert planted
    texts = {"output": "\n".join(workspace.said).encode()}
    for path in workspace.folder.rglob("*"):
        inside_store = path.is_relative_to(workspace.folder / ".retrain/store")
        if path.is_file() and not path.is_symlink() and not inside_store:
            texts[str(path)] = path.read_bytes()
    for where, text in texts.items():
        assert not SECRET.search(text), where
        assert not any(secret in text for secret in planted), where


def weights(path: Path) -> dict[str, str]:
    """Return a checkpoint's tensors without its metadata, which names the run's times."""
    script = (
        "import sys, json, hashlib; from safetensors.torch import load_file;"
        "print(json.dumps({k: hashlib.sha256(v.numpy().tobytes()).hexdigest()"
        " for k, v in load_file(sys.argv[1]).items()}))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=True)
    loaded: dict[str, str] = json.loads(done.stdout)
    return loaded


@pytest.fixture(scope="module")
def kept() -> dict[str, dict[str, str]]:
    """The weights of an uninterrupted run, for the others to be compared with."""
    return {}


def final_weights(workspace: Workspace) -> dict[str, str]:
    return weights(workspace.folder / "models" / f"{OUTPUT}-{EPOCHS:06d}.safetensors")


def test_a_run_from_zip_to_model(workspace: Workspace, kept: dict[str, dict[str, str]]) -> None:
    result = workspace.result("run")
    assert_complete(workspace, result)
    assert len(result["attempts"]) == 1
    assert_no_secret(workspace)
    kept["uninterrupted"] = final_weights(workspace)

    # The store is stopped when nothing is open; a later command starts it and finds the run.
    again = workspace.result("status", result["run_id"])
    assert again["checkpoints"] == result["checkpoints"]

    # A second run of the same name sets the first one's files aside and loses none.
    second = workspace.result("run", "--max-epochs", "2")
    assert second["run_id"] != result["run_id"]
    earlier = list((workspace.folder / "models" / OUTPUT / "earlier").glob("*/*.safetensors"))
    assert {path.name for path in earlier} == {item["name"] for item in result["checkpoints"]} | {
        f"{OUTPUT}.safetensors"
    }


def test_a_killed_launcher_is_replaced(workspace: Workspace) -> None:
    first = workspace.start("run")
    until(lambda: list(workspace.folder.glob("models/*.safetensors")), "a checkpoint")
    first.send_signal(signal.SIGKILL)
    first.wait()
    workspace.finish(first)
    result = workspace.result("attach")
    assert_complete(workspace, result)
    assert len(result["attempts"]) == 1
    assert_no_secret(workspace)


def test_a_killed_job_is_resumed_exactly(workspace: Workspace, kept: dict[str, dict[str, str]]) -> None:
    launcher = workspace.start("run", "--json", "--set", "evaluation.enabled=false")
    until(lambda: list(workspace.folder.glob("models/*.safetensors")), "a checkpoint")
    jobs = workspace.jobs()
    children = [child for job in jobs for child in job.children(recursive=True)]
    for job in jobs:
        os.kill(job.pid, signal.SIGKILL)
    code, out, err = workspace.finish(launcher)
    assert jobs and code == 0, err
    result = json.loads(out)
    assert [item["epoch"] for item in result["checkpoints"]] == SAVED
    assert [attempt["ended"] for attempt in result["attempts"]] == ["pod_gone", "finished"]
    assert result["attempts"][1]["resumed_epoch"] >= 1
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert_no_secret(workspace)
    if kept:
        assert final_weights(workspace) == kept["uninterrupted"]


def test_ctrl_c_detaches_and_cancel_ends(workspace: Workspace) -> None:
    first = workspace.start("run", "--max-epochs", "500", "--repeat-count", "50")
    until(lambda: workspace.jobs(), "a job")
    first.send_signal(signal.SIGINT)
    code, _, err = workspace.finish(first)
    assert code == 130 and "retrain attach" in err and workspace.jobs()
    code, _, err = workspace.run("run")
    assert code == 2 and "still open" in err
    code, out, err = workspace.run("cancel", "--json")
    assert code == 9, err
    assert workspace.pods() == [] and '"confirmed": true' in out
    assert_no_secret(workspace)


def test_detach_and_reconcile_passes(workspace: Workspace) -> None:
    started = workspace.result("run", "--detach", "--max-epochs", "2")
    assert started["phase"] in ("provisioning", "booting")

    def closed() -> bool:
        code, out, err = workspace.run("reconcile", "--json")
        assert code == 0, err
        return '"phase": "done"' in out

    until(closed, "the end of the run", seconds=200)
    assert workspace.pods() == []
