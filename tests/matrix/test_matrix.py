"""Every fault of RunPod, crossed with every point at which a launcher may be killed; then each layer alone.

All faults are played, with every STRIDE-th point. `RETRAIN_MATRIX_STRIDE=1` plays all points, each with
every time until somebody comes; `RETRAIN_MATRIX_SEED=n` others; `RETRAIN_MATRIX_CASE=...` one case, as a
failure tells it.
"""

import os

import pytest

from launcher.results import pullback
from tests.crash.launchers import in_this_thread
from tests.matrix.cases import Case, by_name, kills
from tests.matrix.faults import FAULTS, Fault
from tests.matrix.layers import Layer
from tests.matrix.night import AWAY
from tests.matrix.tally import TALLY
from tests.simulators.runpod.catalog import GPUS

STRIDE = int(os.environ.get("RETRAIN_MATRIX_STRIDE", "6"))
SEED = int(os.environ.get("RETRAIN_MATRIX_SEED", "0"))
ONE = os.environ.get("RETRAIN_MATRIX_CASE", "")
ALONE_STRIDE = 5
"""Of the points that are played for one layer alone, in terms of the others."""
FAILURES_SHOWN = 5

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pullback, "pulsed", in_this_thread)
    monkeypatch.setattr(pullback, "LOCK_SECONDS", 0.0)  # its holder is dead


def play(cases: list[tuple[Case, str]]) -> None:
    """Play cases, and say of each that fails how to play it again."""
    failed = []
    for case, point in cases:
        try:
            case.play()
        except Exception as error:  # noqa: BLE001 - whatever a promise is broken by
            TALLY.broke()
            failed.append((f"RETRAIN_MATRIX_CASE='{case}' ({point}): {type(error).__name__}: {error}", error))
    if failed:
        told = "\n".join(line for line, _ in failed[:FAILURES_SHOWN])
        raise AssertionError(f"{len(failed)} of {len(cases)} cases failed:\n{told}") from failed[0][1]


@pytest.mark.skipif(bool(ONE), reason="one case only")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_launcher_is_killed_under_a_fault(fault: Fault) -> None:
    play(list(kills(fault, stride=STRIDE, first=SEED + FAULTS.index(fault))))


@pytest.mark.skipif(bool(ONE), reason="one case only")
@pytest.mark.parametrize("layer", Layer)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_one_layer_is_enough(fault: Fault, layer: Layer) -> None:
    first = SEED + FAULTS.index(fault) + list(Layer).index(layer)
    play(list(kills(fault, stride=STRIDE * ALONE_STRIDE, first=first, layers=frozenset({layer}))))


@pytest.mark.skipif(bool(ONE), reason="one case only")
def test_a_price_above_the_offer_counts_from_creation_until_a_launcher_sees_it() -> None:
    """The one way above the cap with every layer in reach: no layer but a launcher knows what was offered."""
    (fault,) = [fault for fault in FAULTS if fault.name == "hanging job at twice the price"]
    offered = {gpu.gpu_id: gpu.secure or 0.0 for gpu in GPUS}
    number = Case(fault).play().points.index("after POST /v2/pods") + 1
    for away in AWAY:
        night = Case(fault, number, away).play()
        unseen = next(pod for pod in night.cloud.pods if pod.price_per_hour > offered[pod.gpu_id])
        assert unseen.ended_at is not None
        seconds = (unseen.ended_at - unseen.created_at).total_seconds()
        above = (unseen.price_per_hour - offered[unseen.gpu_id]) * seconds / 3600
        assert night.judge.overspent <= above
    assert night.judge.overspent > 0


@pytest.mark.skipif(not ONE, reason="no case is named")
def test_the_case_that_was_named() -> None:
    play([(by_name(ONE), "as named")])


def test_names_of_cases_are_read_as_written() -> None:
    for case in (Case(FAULTS[3], 7), Case(FAULTS[-1], None, 5, frozenset({Layer.JOB, Layer.REAP}))):
        assert by_name(str(case)) == case
