"""An interrupted and resumed run is the run that was not interrupted: the same steps on the same images with
the same captions, rates and losses, and the same bytes in every checkpoint.

Real launcher, store, pods and trainer. Where it is interrupted follows from RETRAIN_CRASH_SEED.
"""

import json
import random
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import pytest

from job.contract import keys
from launcher.results.losses import loss_table
from tests.crash.kills import SEED, Command, Site, sha256, until
from tests.end_to_end.conftest import EPOCHS, OUTPUT, SETTINGS, STEPS_PER_EPOCH

pytestmark = pytest.mark.slow

STEPS = EPOCHS * STEPS_PER_EPOCH
SAVED = (2, 4, 6)
chance = random.Random(SEED)


def inside(first_epoch: int, last_epoch: int) -> int:
    """Return a sampled step in the middle of one of these epochs."""
    return chance.randint(first_epoch, last_epoch) * STEPS_PER_EPOCH - chance.randint(0, STEPS_PER_EPOCH - 2)


EARLY, LATE = inside(2, 3), inside(5, 6)
AFTER_STATE = chance.choice((2, 4)) * STEPS_PER_EPOCH + 1
"""The first step of an epoch: what came before it is in a state."""


@dataclass
class Lab:
    """A workspace whose trainer writes down what it does and stops where it is told."""

    site: Site
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.site.sources

    def hold_before(self, step: int) -> None:
        (self.folder / "held").unlink(missing_ok=True)
        # In one go: half a number is another one.
        (self.folder / "hold.new").write_text(str(step))
        (self.folder / "hold.new").replace(self.folder / "hold")

    def until_held(self, step: int) -> None:
        held = self.folder / "held"
        until(lambda: held.exists() and held.read_text() == str(step), f"step {step}", seconds=240)

    def let_go(self) -> None:
        (self.folder / "hold").unlink()

    def start(self, *flags: str) -> Command:
        (self.folder / "steps.jsonl").unlink(missing_ok=True)
        return self.site.start("run", "--json", "--set", "evaluation.enabled=false", *flags)

    def lives(self) -> list[list[dict[str, Any]]]:
        """Return the steps that were made, one list for each process that made some."""
        made = [json.loads(line) for line in (self.folder / "steps.jsonl").read_text().splitlines()]
        return [
            [{key: value for key, value in step.items() if key != "process"} for step in steps]
            for _, steps in groupby(made, key=lambda step: step["process"])
        ]

    def hashes(self) -> dict[int, str | None]:
        """Return the SHA-256 of each checkpoint at home."""
        models = self.site.folder / "models"
        return {epoch: sha256(models / f"{OUTPUT}-{epoch:06d}.safetensors") for epoch in SAVED}

    def losses(self) -> str:
        """Return the loss curve that came home."""
        return (self.site.folder / "models" / OUTPUT / "loss.csv").read_text()

    def run_id(self) -> str:
        record = self.site.record(OUTPUT)
        assert record is not None
        return record.run_id

    def job(self) -> psutil.Process:
        """Return the one job that runs."""
        (job,) = self.site.jobs(self.run_id())
        return job

    def has_state(self, epoch: int) -> bool:
        """Whether a resume state of this epoch or a later one is vouched for, and its steps are told."""
        record = self.site.record(OUTPUT)
        assert record is not None and record.last is not None
        store = self.site.store()
        prefix = keys.attempt_prefix(record.run_id, record.last.number)
        receipts = [
            json.loads(store.get(item.key)[0])
            for item in store.list(prefix + "state/")
            if item.key.endswith(keys.RECEIPT_SUFFIX)
        ]
        told = len(loss_table(record, store).splitlines()) - 1
        return any(receipt["epoch"] >= epoch for receipt in receipts) and told >= epoch * STEPS_PER_EPOCH


@dataclass(frozen=True)
class Uninterrupted:
    """What every other run is compared with."""

    steps: list[dict[str, Any]]
    hashes: dict[int, str | None]
    losses: str


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, ingredients: Path) -> Iterator[Lab]:
    site = Site(tmp_path_factory.mktemp("resume"))
    for name in ("base", "data.zip"):
        (site.folder / name).rename(site.folder / f"unused-{name}")
        (site.folder / name).symlink_to(ingredients / name)
    (site.folder / "retrain.toml").write_text(SETTINGS)
    (site.sources / "sitecustomize.py").write_text(
        "from pathlib import Path\n"
        "from tests.end_to_end.resume_pod import watch\n"
        "watch(Path(__file__).parent)\n"
    )
    yield Lab(site)
    site.close()


@pytest.fixture(scope="module")
def whole(lab: Lab) -> Uninterrupted:
    launcher = lab.start()
    assert launcher.wait() == 0, launcher.said()
    (steps,) = lab.lives()
    hashes = lab.hashes()
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert None not in hashes.values() and len({step["loss"] for step in steps}) == STEPS
    told = [line.split(",") for line in lab.losses().splitlines()[1:]]
    assert [(int(step), float(loss).hex()) for step, _, loss in told] == [
        (step["step"], step["loss"]) for step in steps
    ]
    return Uninterrupted(steps, hashes, lab.losses())


def assert_same(lab: Lab, whole: Uninterrupted, *, interrupted_before: list[int]) -> None:
    """Every process made a piece of the uninterrupted run; together they made all of it."""
    lives = lab.lives()
    assert [life[-1]["step"] for life in lives] == [*(step - 1 for step in interrupted_before), STEPS]
    for earlier, life in zip([None, *lives], lives, strict=False):
        first, last = life[0]["step"], life[-1]["step"]
        # A state is an epoch's end: what was made since is made again, and nothing before it.
        assert (first - 1) % STEPS_PER_EPOCH == 0
        assert first == 1 if earlier is None else first <= earlier[-1]["step"] + 1
        assert life == whole.steps[first - 1 : last]
    assert lives[-1][0]["step"] > 1, "nothing was resumed"
    assert lab.hashes() == whole.hashes
    assert lab.losses() == whole.losses


def die(lab: Lab, number: signal.Signals) -> None:
    job = lab.job()
    job.send_signal(number)
    until(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE, "the job's end")


def test_killed_in_an_epoch_and_again_right_after_a_state(lab: Lab, whole: Uninterrupted) -> None:
    first, second = sorted((EARLY, AFTER_STATE + 2 * STEPS_PER_EPOCH))
    lab.hold_before(first)
    launcher = lab.start()
    for step, following in ((first, second), (second, 0)):
        lab.until_held(step)
        state = (step - 1) // STEPS_PER_EPOCH
        until(lambda state=state: lab.has_state(state), f"the state of epoch {state}")  # type: ignore[misc]
        die(lab, signal.SIGKILL)
        lab.hold_before(following)
    assert launcher.wait() == 0, launcher.said()
    assert_same(lab, whole, interrupted_before=[first, second])


def test_asked_to_go_and_started_again_as_the_same_pod(lab: Lab, whole: Uninterrupted) -> None:
    """SIGTERM, as when a container is stopped; the restarted container is a second life of the attempt."""
    lab.hold_before(LATE)
    launcher = lab.start("--set", "clocks.grace=5")
    lab.until_held(LATE)
    # Nobody looks on meanwhile: to a launcher the pod would be gone.
    launcher.process.kill()
    launcher.wait()
    job = lab.job()
    argv, surroundings, folder = job.cmdline(), job.environ(), job.cwd()
    die(lab, signal.SIGTERM)
    lab.let_go()
    subprocess.Popen(argv, cwd=folder, env=surroundings, start_new_session=True, stderr=subprocess.DEVNULL)
    again = lab.site.start("attach", lab.run_id(), "--json")
    assert again.wait() == 0, again.said()
    assert len(again.result()["attempts"]) == 1
    assert_same(lab, whole, interrupted_before=[LATE])


def test_a_killed_trainer(lab: Lab, whole: Uninterrupted) -> None:
    step = inside(3, 6)
    lab.hold_before(step)
    launcher = lab.start()
    lab.until_held(step)
    trainers = [
        process
        for process in lab.job().children(recursive=True)
        if "job.trainers.embedded" in process.cmdline() and "leash.py" not in " ".join(process.cmdline())
    ]
    assert len(trainers) == 1
    trainers[0].kill()
    lab.let_go()
    assert launcher.wait() == 0, launcher.said()
    assert_same(lab, whole, interrupted_before=[step])
