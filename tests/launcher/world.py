"""A run in a world of fakes: store, provider, clock, job."""

from datetime import timedelta
from pathlib import Path

from job.contract.manifest import EvaluationPlan, InputRole, SamplePrompt
from job.contract.recipe import Recipe, TrainerName
from launcher.actions import World
from launcher.journal import Journal
from launcher.loop import Loop
from launcher.model import Budget, Clocks, InputFile, RunRecord, RunSpec
from launcher.results.home import Home
from tests.fakes.pods import FakeClock, FakePods, Notes
from tests.fakes.store import FakeStore

RUN = "run-1"
OUTPUT = "punks"


class FakeWorld:
    """Everything that a loop needs, with the fakes at hand."""

    def __init__(
        self,
        folder: Path,
        *,
        price: float = 0.5,
        epochs: int = 4,
        prompts: int = 0,
        silence_seconds: float = 120,
    ) -> None:
        self.store = FakeStore()
        self.pods = FakePods(self.store, price=price)
        self.clock = FakeClock(self.store, self.pods)
        self.notes = Notes()
        self.home = Home(folder / "models", folder / ".retrain")
        self.epochs = epochs
        self.prompts = prompts
        self.silence_seconds = silence_seconds

    @property
    def world(self) -> World:
        return World(self.store, self.pods, self.clock, self.notes, self.home)

    def journal(self, holder: str = "launcher-1") -> Journal:
        return Journal(self.store, holder)

    def loop(self, holder: str = "launcher-1") -> Loop:
        return Loop(self.world, self.journal(holder))

    def record(self, **budget: float) -> RunRecord:
        data = self.store.put("runs/run-1/inputs/dataset.zip", b"data")
        assert data
        item = InputFile(
            role=InputRole.DATASET,
            name="dataset.zip",
            key="runs/run-1/inputs/dataset.zip",
            bytes=4,
            sha256="0" * 64,
        )
        limits = {"cap_dollars": 5.0, "max_seconds": 3600.0, "reserve_seconds": 60.0, **budget}
        return RunRecord(
            run_id=RUN,
            created_at=self.store.now(),
            spec=RunSpec(
                output_name=OUTPUT,
                provider="process",
                trainer=TrainerName.DIFFUSERS,
                recipe=Recipe(output_name=OUTPUT, max_epochs=self.epochs, save_every=2),
                inputs=(item,),
                evaluation=self._evaluation(),
                budget=Budget.model_validate(limits),
                clocks=Clocks(
                    poll_seconds=5,
                    create_lag_seconds=20,
                    leak_seconds=120,
                    lease_seconds=60,
                    boot_seconds=200,
                    boot_hard_seconds=300,
                    provision_seconds=100,
                    silence_seconds=self.silence_seconds,
                    collect_seconds=600,
                    capacity_seconds=900,
                ),
            ),
        )

    def _evaluation(self) -> EvaluationPlan | None:
        prompts = tuple(SamplePrompt(name=f"{n}", prompt="a face", seed=n) for n in range(self.prompts))
        return EvaluationPlan(prompts=prompts) if prompts else None

    def start(self, **budget: float) -> RunRecord:
        """Write the run's record and let go of it, as a launcher that died after staging."""
        journal = self.journal()
        held = journal.create(self.record(**budget))
        journal.release(held)
        return held.record

    def run(self, **budget: float) -> RunRecord:
        self.start(**budget)
        return self.loop().drive(RUN)

    def until_a_checkpoint(self) -> None:
        """Make passes until a checkpoint is home."""
        while not self.loop().once(RUN).checkpoints():
            self.clock.sleep(5)

    def later(self, seconds: float) -> None:
        self.store.at += timedelta(seconds=seconds)
