"""Bad input, a table: each kind gets one clear sentence, the right exit code, and leaves nothing behind."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from job.contract.reasons import Reason
from job.errors import NotStartedError
from job.exits import ExitCode
from job.exits import exit_code as job_exit_code
from job.unpack import Zip, unpack_dataset
from launcher.cli.options import SettingsFlags
from launcher.errors import Exit
from launcher.report.summary import exit_code, summary
from launcher.staging import find_source
from tests.bad_input.models import MODELS, TAKEN
from tests.bad_input.packages import HARMLESS, REFUSED, Package
from tests.bad_input.place import Place
from tests.bad_input.pods import ATTEMPTED, Attempted
from tests.bad_input.settings import SETTINGS, Command, sound_set
from tests.bad_input.stores import BUCKETS, Bucket
from tests.job.rig import Rig
from tests.launcher.world import RUN, FakeWorld

KINDS_MIN = 60


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_a_data_set_is_refused(place: Place, case: Package) -> None:
    place.use_bucket()
    write(place, case)
    before = place.files()
    place.retrain("run", "--training-zip", "set.zip").assert_refused(Exit.DATASET, case.says)
    place.retrain("pack", "set.zip", "-o", "out.zip").assert_refused(Exit.DATASET, case.says)
    listed = place.retrain("check", "set.zip")
    assert listed.code == Exit.DATASET
    assert all(word in listed.text for word in case.says), listed.text
    place.assert_nothing_left(before)


@pytest.mark.slow
@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case.id)
def test_a_data_set_simply_works(place: Place, case: Package) -> None:
    write(place, case)
    listed = place.retrain("check", "set.zip")
    assert listed.code == Exit.DONE, listed.text
    assert all(word in listed.text for word in case.says), listed.text
    before = place.files()
    assert place.retrain("pack", "set.zip", "-o", "packed.zip").code == Exit.DONE
    assert place.files() == before | {"packed.zip"}
    archive = Zip(place.folder / "packed.zip", reason=Reason.BAD_DATASET, noun="the dataset")
    in_pod = unpack_dataset(archive, place.folder / "pod", repeat_count=2, caption_extension=".txt")
    archive.close()
    assert in_pod == case.images


def write(place: Place, case: Package) -> None:
    """Write the package of a case as set.zip."""
    data = case.make(place.folder / "set.zip")
    if data is not None:
        place.file("set.zip", data)


@pytest.mark.slow
@pytest.mark.parametrize("case", SETTINGS + MODELS, ids=lambda case: case.id)
def test_a_command_is_refused(place: Place, case: Command) -> None:
    if case.with_bucket:
        place.use_bucket()
    sound_set(place)
    case.given(place)
    before = place.files()
    place.retrain(*case.arguments).assert_refused(case.code, case.says)
    place.assert_nothing_left(before)


@pytest.mark.parametrize("name", TAKEN)
def test_a_model_is_taken(tmp_path: Path, place: Place, name: str) -> None:
    given, arguments = TAKEN[name]
    sound_set(place)
    given(place)
    flags = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    run = {"training_zip": "set.zip", "base_model": flags["--set"].partition("=")[2]}
    recipe = {}
    if "--init-weights" in flags:
        run["init_weights"], recipe = flags["--init-weights"], {"lora_dim": flags["--lora-dim"]}
    source = find_source(SettingsFlags(None, {"run": run, "recipe": recipe}).load())
    assert source.base_model.exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", BUCKETS, ids=lambda case: case.id)
def test_a_bucket_is_refused(place: Place, case: Bucket) -> None:
    sound_set(place)
    running = case.given(place)
    before = place.files()
    with running or nullcontext():
        said = place.retrain(*case.arguments)
    said.assert_refused(case.code, case.says)
    place.assert_nothing_left(before, in_bucket=case.left)


@pytest.mark.slow
@pytest.mark.parametrize("case", ATTEMPTED, ids=lambda case: case.id)
def test_a_pod_refuses(rig: Rig, case: Attempted, tmp_path: Path) -> None:
    variables = case.given(rig) or rig.publish()
    if case.reason is None:
        with pytest.raises(NotStartedError) as caught:
            rig.run(variables)
        said, code = caught.value.message, ExitCode.NOT_STARTED
        assert not [request for request in rig.bucket.requests if request.method == "PUT"]
    else:
        code = rig.run(variables)
        (failed,) = rig.said("failed")
        assert failed == rig.events()[-1]
        assert failed.reason is case.reason and job_exit_code(failed.reason) is case.code
        said = failed.message
        at_home, sentence = as_the_launcher_ends(tmp_path, failed.reason, said)
        assert at_home == case.home and said in sentence
    assert code is case.code
    assert all(word in said for word in case.says), said
    assert "\n" not in said and "X-Amz" not in said and "internal error" not in said
    assert not rig.trainer.tasks
    assert list((rig.folder / "scratch").iterdir()) == []


def as_the_launcher_ends(folder: Path, reason: Reason, message: str) -> tuple[int | None, str]:
    """Return exit code and sentence of a run whose pods all fail like this; nothing of it may stay open."""
    world = FakeWorld(folder / "launcher", epochs=2)
    world.pods.job_options = [{"fail_at_epoch": 1, "fail_with": reason, "message": message}] * 3
    world.run()
    record = world.journal().read(RUN)
    assert record.phase.closed and record.all_gone and record.lease is None
    assert not world.journal().is_open(record.spec.output_name)
    return exit_code(record), str(summary(record, world.store.now())["outcome"])


def test_the_table_is_whole() -> None:
    tables = (REFUSED, HARMLESS, SETTINGS, MODELS, BUCKETS, ATTEMPTED)
    ids = [case.id for table in tables for case in table]
    assert len(ids) == len(set(ids))
    assert len(ids) >= KINDS_MIN
