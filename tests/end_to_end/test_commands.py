"""Commands that start no run, used as a person uses them."""

import json
import zipfile

import pytest

from tests.end_to_end.conftest import Workspace

pytestmark = pytest.mark.slow


def test_doctor_finds_nothing_missing_and_leaves_nothing_running(workspace: Workspace) -> None:
    code, out, err = workspace.run("doctor", "--json")
    findings = {item["check"]: item for item in json.loads(out)}
    assert code == 0, err
    assert findings["training libraries"]["ok"] and findings["storage, reachable"]["ok"]
    assert findings["open runs"]["detail"] == "none"


def test_doctor_names_what_is_missing_and_the_fix(workspace: Workspace) -> None:
    code, out, _ = workspace.run("doctor", "--set", "run.base_model=nowhere")
    assert code == 6
    assert [line for line in out.splitlines() if line.startswith("MISSING") and "nowhere" in line]


def test_status_without_runs(workspace: Workspace) -> None:
    assert workspace.run("status")[:2] == (0, "no runs\n")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["run", "--training-zip", "nowhere.zip"], 2, "nowhere.zip"),
        (["run", "--training-zip", "broken.zip"], 3, "broken.zip"),
        (["run", "--training-zip", "lonely.zip"], 3, "lonely.png"),
        (["run", "--max-epochs", "many"], 2, "max_epochs"),
        (["run", "--set", "recipe.max_epoch=3"], 2, "max_epochs"),
        (["run", "--set", "budget.local_price_per_hour=100", "--cap", "1"], 4, "does not pay"),
        (["run", "--set", "run.base_model=broken.zip.safetensors"], 2, "diffusers folder"),
        (["attach"], 2, "no run"),
        (["cancel", "nothing-like-it"], 2, "nothing-like-it"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence_and_leaves_nothing(
    workspace: Workspace, arguments: list[str], code: int, sentence: str
) -> None:
    (workspace.folder / "broken.zip").write_bytes(b"PK\x03\x04 and then nothing")
    (workspace.folder / "broken.zip.safetensors").write_bytes(b"a model in one file")
    with zipfile.ZipFile(workspace.folder / "lonely.zip", "w") as archive:
        archive.writestr("lonely.png", b"no caption")
    found, out, err = workspace.run(*arguments)
    assert found == code and sentence in err and out == ""
    assert "Traceback" not in err
    assert not list(workspace.folder.glob("models/**/*")) and workspace.pods() == []
    assert workspace.run("status")[1] == "no runs\n"


def test_a_run_that_earlier_ones_show_to_be_too_long_is_refused(workspace: Workspace) -> None:
    first = workspace.result("run")
    (pod,) = first["receipt"]["pods"]
    assert pod["spent"]["training"] > 0 and first["attempts"][0]["seconds_per_step"] > 0
    assert sum(pod["spent"].values()) == pytest.approx(pod["seconds"], abs=1)
    limits = ("--max-hours", "0.02", "--set", "budget.teardown_reserve_minutes=0.1")
    code, out, err = workspace.run("run", "--output-name", "more", "--max-epochs", "10000", *limits)
    assert (code, out) == (4, "") and "nothing was spent" in err and "--trim" in err
    assert len(json.loads(workspace.run("status", "--json")[1])) == 1
