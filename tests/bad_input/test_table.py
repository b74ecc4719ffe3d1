"""Bad input, a table: each kind gets one clear sentence, the right exit code, and leaves nothing behind."""

import pytest

from job.contract.reasons import Reason
from job.unpack import Zip, unpack_dataset
from launcher.errors import Exit
from tests.bad_input.packages import HARMLESS, REFUSED, Package
from tests.bad_input.place import Place

pytestmark = pytest.mark.slow


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
