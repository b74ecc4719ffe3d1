"""What takes more than a file to try: a full disk, a port in use, a checkpoint altered in the bucket."""

import json
import socket
from pathlib import Path

import pytest

from job.contract.reasons import Reason
from job.exits import ExitCode
from launcher.errors import Exit
from launcher.report.summary import exit_code, summary
from launcher.storage.server_state import ServerState
from tests.bad_input.place import Place
from tests.bad_input.pods import lie_about_room
from tests.bad_input.settings import sound_set
from tests.job.rig import Rig, picture, zipped
from tests.launcher.dataset.packages import image, pairs
from tests.launcher.dataset.packages import zipped as packaged
from tests.launcher.world import FakeWorld

pytestmark = pytest.mark.slow

TWO_MEGABYTES = 1 << 21
RUN_SET = ("run", "--training-zip", "set.zip")


def large_set(place: Place) -> None:
    """Write a data set that no small disk holds."""
    files = pairs(1, "") | {"large.bmp": image(side=900, kind="BMP"), "large.txt": b"a large one"}
    packaged(place.folder / "set.zip", files)


def test_results_on_a_full_disk(place: Place, small_disk: Path) -> None:
    place.use_bucket()
    sound_set(place)
    place.setenv(RETRAIN_RUN__MODELS_DIR=str(small_disk / "models"))
    before = place.files()
    said = place.retrain(*RUN_SET)
    said.assert_refused(Exit.INFRASTRUCTURE, ("small-disk/models", "MiB are free", "Make room"))
    place.assert_nothing_left(before)


def test_the_workspace_on_a_full_disk(place: Place, small_disk: Path) -> None:
    place.use_bucket()
    large_set(place)
    place.setenv(RETRAIN_RUN__WORKSPACE=str(small_disk / "work"))
    before = place.files()
    said = place.retrain(*RUN_SET)
    said.assert_refused(Exit.INFRASTRUCTURE, ("small-disk/work", "No space left"))
    place.assert_nothing_left(before)


def test_the_embedded_store_on_a_full_disk(place: Place, small_disk: Path) -> None:
    sound_set(place)
    place.setenv(RETRAIN_RUN__WORKSPACE=str(small_disk / "work"))
    said = place.retrain(*RUN_SET)
    said.assert_refused(Exit.INFRASTRUCTURE, ("small-disk/work", "MiB", "Make room"))
    place.assert_nothing_runs()


def test_a_packed_set_on_a_full_disk(place: Place, small_disk: Path) -> None:
    large_set(place)
    before = place.files()
    said = place.retrain("pack", "set.zip", "-o", str(small_disk / "out.zip"))
    said.assert_refused(Exit.INFRASTRUCTURE, ("small-disk/out.zip", "No space left"))
    place.assert_nothing_left(before)


def test_a_pod_with_a_small_disk_says_what_it_needs(rig: Rig, small_disk: Path) -> None:
    assert rig.run(RETRAIN_SCRATCH=str(small_disk)) is ExitCode.MACHINE_FAILED
    (failed,) = rig.said("failed")
    assert failed.reason is Reason.DISK_FULL
    assert "are free on the disk" in failed.message and "for 3 checkpoints" in failed.message
    assert list(small_disk.iterdir()) == [] and not rig.trainer.tasks


def test_a_pod_whose_disk_fills_up(rig: Rig, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lie_about_room(monkeypatch)
    rig.dataset = zipped({"a.png": picture() + bytes(TWO_MEGABYTES), "a.txt": b"x"})
    assert rig.run(RETRAIN_SCRATCH=str(small_disk)) is ExitCode.MACHINE_FAILED
    (failed,) = rig.said("failed")
    assert (failed.reason, failed.message) == (Reason.DISK_FULL, "the disk is full")
    assert list(small_disk.iterdir()) == [] and not rig.trainer.tasks


def test_a_port_in_use(place: Place) -> None:
    """The local store moves, says so, and works: it is the data set that ends the run. Nothing runs after."""
    place.file("set.zip", b"no zip")
    store = place.folder / ".retrain/store"
    (store / "data").mkdir(parents=True)
    state = ServerState.fresh(store)
    state.write(store / "server.json")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", state.ports.s3))
        stranger.listen()
        said = place.retrain(*RUN_SET)
    said.assert_refused(Exit.DATASET, ("set.zip", "is not a zip file"))
    assert f"Port {state.ports.s3} of the local store is taken" in said.err and "moves to port" in said.err
    assert json.loads((store / "server.json").read_bytes())["ports"]["s3"] != state.ports.s3
    place.assert_nothing_runs()


def test_the_stores_own_file_damaged(place: Place) -> None:
    place.file(".retrain/store/server.json", b"\0\0\0")
    sound_set(place)
    before = place.files()
    said = place.retrain(*RUN_SET)
    said.assert_refused(Exit.INFRASTRUCTURE, ("server.json", "cannot be read", "delete"))
    assert {name for name in place.files() - before if not name.endswith(".lock")} == set()
    place.assert_nothing_runs()


def test_a_checkpoint_altered_in_the_bucket(tmp_path: Path) -> None:
    """It is named, does not come home under its name, and the run does not end as done."""
    world = FakeWorld(tmp_path, epochs=4)
    world.pods.job_options = [{"corrupt_epoch": 2}]
    record = world.run()
    name = record.spec.recipe.checkpoint_name(2)
    assert exit_code(record) == Exit.INCOMPLETE
    told = summary(record, world.store.now())
    assert told["not_home"] == [name] and name in str(told["outcome"])
    assert {path.name for path in (tmp_path / "models").glob("*.safetensors")} == {
        record.spec.recipe.checkpoint_name(4),
        "punks.safetensors",
    }
    assert not list((tmp_path / "models").rglob("*.part"))
    assert record.all_gone and not world.journal().is_open(record.spec.output_name)
