"""One run against the bucket: inputs, manifest, the job in this process or in its own, and what it left."""

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from job import environment, lifecycle
from job.clock import Clock
from job.contract import keys
from job.contract.events import Event, decode_log
from job.contract.manifest import (
    EvaluationPlan,
    Input,
    InputRole,
    Links,
    RunManifest,
    SamplePrompt,
    Timing,
    expected_artefacts,
)
from job.contract.recipe import Recipe, TrainerName
from job.contract.records import Receipt
from job.contract.schema import decode
from job.desk import World
from job.evaluate.drawing import DrawTask, encode_task
from job.exits import ExitCode
from job.patience import Stop
from job.provider import Provider
from job.redaction import Redactor
from job.supervise import Children
from job.trainers.base import Command, ReportReader, TrainingTask
from job.trainers.diffusers import DiffusersTrainer
from job.transfer import Transfer
from job.watchdog import Watchdog
from tests.job.bucket import Bucket

HERE = Path(__file__).parent
RUN = "run-1"
POD = "pod-a"


@dataclass(frozen=True)
class Script:
    """What the scripted trainer does. Steps and epochs count from 1; 0 is never."""

    steps: int = 2
    silent: bool = False
    """Writes checkpoints without reporting them."""
    unnumbered: bool = False
    """Names the last checkpoint as sd-scripts does."""
    states: bool = True
    skip: tuple[int, ...] = ()
    """Epochs that are not saved."""
    chatter: tuple[str, ...] = ()
    hold: str = ""
    """File whose appearance ends a pause, or lets a half-written file be completed."""
    pause_at: int = 0
    hang_at: int = 0
    half_written: int = 0
    crash_at: int = 0
    kill_at: int = 0
    nan_at: int = 0
    nan_tensor: int = 0
    wrong_rank: int = 0
    untrained: bool = False
    worker: str = ""
    """File to write the numbers of the trainer and of a worker of its to."""
    deaf: bool = False
    """Ignores SIGTERM."""


@dataclass
class ScriptedTrainer:
    """Implements `job.trainers.base.Trainer`; speaks the embedded trainer's lines."""

    script: Script
    tasks: list[TrainingTask] = field(default_factory=list)

    def command(self, task: TrainingTask) -> Command:
        self.tasks.append(task)
        said = asdict(self.script) | {
            "epochs": task.recipe.max_epochs,
            "save_every": task.recipe.save_every,
            "rank": task.recipe.lora_dim,
            "name": task.recipe.output_name,
            "output_dir": str(task.output_dir),
            "resume": task.resume
            and {"folder": str(task.resume.folder), "epoch": task.resume.epoch, "step": task.resume.step},
        }
        return Command((sys.executable, str(HERE / "scripted_child.py"), json.dumps(said)))

    def reader(self, task: TrainingTask) -> ReportReader:
        return DiffusersTrainer().reader(task)


@dataclass
class ScriptedDrawer:
    """Stands for `draw_command`. Modes: draw, fail, hang, or either at an epoch: fail-N, hang-N."""

    mode: str = "draw"
    tasks: list[DrawTask] = field(default_factory=list)

    def __call__(self, task: DrawTask, task_file: Path, /) -> Command:
        self.tasks.append(task)
        task_file.write_text(encode_task(task))
        return Command((sys.executable, str(HERE / "scripted_drawing.py"), str(task_file), self.mode))


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "png")
    return buffer.getvalue()


DATASET = {"package/set/a.png": picture(), "package/set/a.txt": b"one", "b.jpg": picture(), "b.txt": b"two"}
RULER = {
    "version": 1,
    "grid": 4,
    "attributes": {
        "split": {"minimum_explained": 0.5, "values": {"half": [["aabb"] * 4], "quarter": [["abbb"] * 4]}},
    },
    "prompts": [],
}
PLAN = EvaluationPlan(
    prompts=(
        SamplePrompt(name="p1", prompt="x", seed=1, asked={"split": "half"}),
        SamplePrompt(name="p2", prompt="y", seed=2, asked={"split": "quarter"}),
    )
)


class Rig:
    """A run in a bucket. Attributes may be changed before it is started."""

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self.bucket = bucket
        self.folder = folder
        self.attempt = 1
        self.recipe = Recipe(output_name="punk", max_epochs=3, save_every=1, lora_dim=4, lora_alpha=4)
        self.plan: EvaluationPlan | None = None
        self.timing = Timing(
            heartbeat_seconds=0.2, progress_seconds=0.05, grace_seconds=5, state_every_seconds=1
        )
        self.stop_in: float = 3000
        self.deadline_in: float = 3600
        self.dataset = zipped(DATASET)
        self.inputs: list[tuple[InputRole, str, bytes, dict[str, Any]]] = [
            (InputRole.BASE_MODEL, "base.zip", zipped({"tiny/model_index.json": b"{}"}), {})
        ]
        self.drawer = ScriptedDrawer()
        self.trainer = ScriptedTrainer(Script())
        self.world: World | None = None
        self.provider: Provider | None = None
        self.ended_by_watchdog = False

    def key(self, name: str) -> str:
        return keys.attempt_prefix(RUN, self.attempt) + name

    def manifest(self) -> RunManifest:
        now = datetime.now(UTC)
        later = now + timedelta(hours=9)
        durable = expected_artefacts(self.recipe, self.plan)

        def links(method: str, names: Sequence[str]) -> dict[str, Any]:
            return {name: self.bucket.link(method, self.key(name), later) for name in names}

        inputs = []
        for role, name, data, extra in [(InputRole.DATASET, "data.zip", self.dataset, {}), *self.inputs]:
            key = keys.input_key(RUN, name)
            self.bucket.objects.setdefault(key, data)
            link = self.bucket.link("GET", key, later)
            digest = sha256(data).hexdigest()
            inputs.append(Input(role=role, name=name, bytes=len(data), sha256=digest, link=link, **extra))
        return RunManifest(
            run_id=RUN,
            attempt=self.attempt,
            trainer=TrainerName.DIFFUSERS,
            recipe=self.recipe,
            inputs=tuple(inputs),
            evaluation=self.plan,
            stop_at=now + timedelta(seconds=self.stop_in),
            hard_deadline=now + timedelta(seconds=self.deadline_in),
            timing=self.timing,
            links=Links(
                get=links("GET", keys.read_back(durable)),
                put=links("PUT", keys.overwritten(durable)),
                create=links("CREATE", keys.created_once()),
            ),
        )

    def publish(self, manifest: bytes | None = None) -> dict[str, str]:
        """Put the manifest into the bucket; return the pod's environment."""
        key = keys.manifest_key(RUN, self.attempt)
        self.bucket.objects[key] = manifest or self.manifest().encode()
        deadline = datetime.now(UTC) + timedelta(seconds=self.deadline_in)
        return {
            "RETRAIN_MANIFEST_URL": self.bucket.link("GET", key, deadline).url.get_secret_value(),
            "RETRAIN_DEADLINE": deadline.isoformat(),
            "RETRAIN_POD_ID": POD,
            "RETRAIN_SCRATCH": str(self.folder / "scratch"),
        }

    def run(self, variables: dict[str, str] | None = None, **changes: str) -> ExitCode:
        """Run the job in this process, signal handlers aside."""
        surroundings = environment.parse((variables or self.publish()) | changes)
        clock, children, stop = Clock(), Children(), Stop()

        def end() -> None:
            self.ended_by_watchdog = True

        watchdog = Watchdog(clock, surroundings.deadline, kill_children=children.kill, end=end)
        transfer = Transfer(clock.store_says)
        self.world = World(
            environment=surroundings,
            clock=clock,
            watchdog=watchdog,
            stop=stop,
            children=children,
            redact=Redactor(surroundings.secrets),
            transfer=transfer,
            trainers={TrainerName.DIFFUSERS: self.trainer},
            drawer=self.drawer,
            provider=self.provider,
        )
        watchdog.arm()
        try:
            return lifecycle.run(self.world)
        finally:
            watchdog.disarm()
            transfer.close()

    def start(self, **changes: str) -> "subprocess.Popen[bytes]":
        """Run the job in a process of its own, as a container would."""
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".json", delete=False) as file:
            json.dump(asdict(self.trainer.script), file)
        root = str(HERE.parent.parent)
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.job.scripted_job", file.name],
            env=inherited | {"PYTHONPATH": root} | self.publish() | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=root,
        )

    def events(self, life: int = 1) -> tuple[Event, ...]:
        return decode_log(self.bucket.objects.get(self.key(keys.events(life)), b""))

    def said(self, kind: str, life: int = 1) -> list[Any]:
        return [event for event in self.events(life) if event.kind == kind]

    def receipt(self, key: str) -> Receipt | None:
        data = self.bucket.objects.get(self.key(keys.receipt(key)))
        return None if data is None else decode(Receipt, data)

    def vouched(self) -> list[str]:
        """Names of checkpoints whose receipt matches the object in the bucket."""
        found = []
        for epoch in self.recipe.saved_epochs:
            name = self.recipe.checkpoint_name(epoch)
            receipt = self.receipt(keys.checkpoint(name))
            if receipt is not None:
                data = self.bucket.objects[self.key(keys.checkpoint(name))]
                assert (receipt.bytes, receipt.sha256) == (len(data), sha256(data).hexdigest())
                found.append(name)
        return found
