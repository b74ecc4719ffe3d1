"""What the job costs the trainer: the same training bare and under `python -m job`, same seed, same machine.

Speed counts from the first checkpoint to the last, by the times at which the trainer wrote them: the same
measure on both sides, taken by neither. In between the job reads its output, sends events, heartbeat and log,
looks after disk and memory, and uploads checkpoints and resume states to a store on this very machine, which
takes its part of the cores.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path

import psutil

from job.contract.manifest import POD_ID_VARIABLE, SCRATCH_VARIABLE, InputRole
from job.contract.reasons import Reason
from job.supervise import minimal_environment
from job.trainers.base import TrainingTask
from job.trainers.diffusers import DiffusersTrainer
from job.unpack import Zip, unpack_dataset
from launcher.manifests import Inheritance, pod_spec
from launcher.model import Attempt, RunRecord
from launcher.results.home import Home
from launcher.settings import example_dir, load_settings
from launcher.staging import stage
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.s3 import S3Store
from tests.bench.figures import Figure, Sample, Side, alternating, spread
from tests.bench.machine import ROOT

GROUP = "training"
BATCH = 4
"""Smaller than the example's: shorter steps give the job more to do for each second."""
LOOK_SECONDS = 0.2


class _Silence:
    """Nobody listens."""

    def say(self, message: str) -> None:
        """Drop a line."""


@dataclass(frozen=True)
class Trained:
    """One training, by what it wrote."""

    times: dict[str, float]
    """When each checkpoint was written, in seconds, by name."""
    hashes: dict[str, str]
    supervisor_share: float = 0.0
    """Processor time of the job's own process, per second."""

    def seconds(self) -> float:
        """Return the seconds from the first checkpoint to the last."""
        return max(self.times.values()) - min(self.times.values())


class Bench:
    """A staged run, and both ways to train it."""

    def __init__(self, folder: Path, *, epochs: int) -> None:
        self._folder = folder
        config = folder / "retrain.toml"
        config.write_text("")
        settings = load_settings(
            config,
            {
                "recipe": {
                    "max_epochs": str(epochs),
                    "save_every": "1",
                    "repeat_count": "1",
                    "batch_size": str(BATCH),
                },
                "evaluation": {"enabled": "false"},
                "run": {"workspace": str(folder / ".retrain"), "models_dir": str(folder / "models")},
            },
        )
        self.server = EmbeddedServer(folder / "store")
        self._store = S3Store(self.server.connect())
        home = Home(settings.run.models_dir, settings.run.workspace)
        self.record: RunRecord = stage(
            settings, self._store, home, _Silence(), now=self._store.now(), place=""
        )
        self._data = self._unpacked()
        self._numbers = count(1)
        self.trained: dict[bool, list[Trained]] = {False: [], True: []}
        """What came of it, with the job and without."""

    def bare(self) -> Sample:
        """Train without a supervisor."""
        output = self._folder / f"bare-{next(self._numbers)}"
        timing = self.record.spec.timing
        task = TrainingTask(
            recipe=self.record.spec.recipe,
            data_dir=self._data,
            base_model=example_dir() / "base",
            output_dir=output,
            state_every_seconds=timing.state_every_seconds,
        )
        command = DiffusersTrainer().command(task)
        with (self._folder / "bare.log").open("wb") as log:
            subprocess.run(
                command.argv,
                env=minimal_environment(os.environ, command.environment),
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
            )
        return self._keep(supervised=False, paths=output.glob("*.safetensors"))

    def supervised(self) -> Sample:
        """Train in a pod's job."""
        number = next(self._numbers)
        scratch, kept = self._folder / f"pod-{number}", self._folder / f"kept-{number}"
        scratch.mkdir()
        kept.mkdir()
        spec = pod_spec(self.record, self._attempt(number), self._store, Inheritance())
        ours = {POD_ID_VARIABLE: f"bench.{number}", SCRATCH_VARIABLE: str(scratch), "PYTHONPATH": str(ROOT)}
        began = time.monotonic()
        with (self._folder / "job.log").open("wb") as log:
            job = subprocess.Popen(
                [sys.executable, "-m", "job"],
                env=minimal_environment(os.environ, {**spec.environment, **ours}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            busy, looked = 0.0, began
            while job.poll() is None:
                busy, looked = _processor_seconds(job.pid) or busy, time.monotonic()
                _link(scratch, kept)
                time.sleep(LOOK_SECONDS)
        finally:
            if job.poll() is None:
                job.kill()
                job.wait()
        if job.returncode:
            raise RuntimeError(
                f"the job ended with {job.returncode}: {(self._folder / 'job.log').read_text()}"
            )
        return self._keep(supervised=True, paths=kept.iterdir(), share=busy / (looked - began))

    def _keep(self, *, supervised: bool, paths: Iterator[Path], share: float = 0.0) -> Sample:
        found = sorted(paths)
        trained = Trained(
            times={path.name: path.stat().st_mtime_ns / 1e9 for path in found},
            hashes={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found},
            supervisor_share=share,
        )
        if set(trained.times) != {
            self.record.spec.recipe.checkpoint_name(epoch) for epoch in self.record.spec.recipe.saved_epochs
        }:
            raise RuntimeError(f"of the checkpoints only {sorted(trained.times)} were seen")
        self.trained[supervised].append(trained)
        return Sample(trained.seconds(), 0.0)

    def _unpacked(self) -> Path:
        """Lay the data set out as the job does."""
        item = next(item for item in self.record.spec.inputs if item.role is InputRole.DATASET)
        path, data = self._folder / item.name, self._folder / "data"
        for _ in self._store.download(item.key, path):
            pass
        recipe = self.record.spec.recipe
        archive = Zip(path, reason=Reason.BAD_DATASET, noun="the dataset")
        unpack_dataset(
            archive, data, repeat_count=recipe.repeat_count, caption_extension=recipe.caption_extension
        )
        archive.close()
        return data

    def _attempt(self, number: int) -> Attempt:
        now = self._store.now()
        return Attempt(
            number=number,
            pod_name=f"bench-{number}",
            offer="this machine",
            intent_at=now,
            price_ceiling=0.0,
            stop_at=now + timedelta(hours=1),
            hard_deadline=now + timedelta(hours=2),
        )


def measure(folder: Path, *, quick: bool) -> Iterator[Figure]:
    """Yield the figures."""
    bench = Bench(folder, epochs=3)
    try:
        ours, theirs = alternating(bench.supervised, bench.bare, pairs=1 if quick else 3, warm_up=False)
    finally:
        bench.server.stop()
    results = {frozenset(trained.hashes.items()) for side in bench.trained.values() for trained in side}
    same = "every checkpoint the same bytes in all runs" if len(results) == 1 else "RESULTS DIFFER"
    recipe = bench.record.spec.recipe
    yield Figure(
        group=GROUP,
        name="steps per second under the job",
        **spread([b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True)]),
        means="the same trainer without it = 1",
        at_least=0.98,
        sides=(Side.of("under the job", ours), Side.of("bare", theirs)),
        note=f"{recipe.max_epochs - 1} epochs of the example, one checkpoint each; {same}",
    )
    yield Figure(
        group=GROUP,
        name="processor of the supervising process",
        **spread([trained.supervisor_share for trained in bench.trained[True]]),
        means="one core = 1",
        note="its whole life, start-up included",
    )


def _link(scratch: Path, kept: Path) -> None:
    """Keep every checkpoint that is there: the job clears its disk at its end."""
    for path in scratch.glob("*/life-*/output/*.safetensors"):
        if not (kept / path.name).exists():
            os.link(path, kept / path.name)


def _processor_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system
