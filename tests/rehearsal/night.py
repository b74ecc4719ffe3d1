"""The stage: RunPod simulated on loopback, a real S3 server, and commands of retrain that know only those.

Time is real. Pods are processes of this machine that run the real job on the example that comes with retrain.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from job.contract import keys
from job.contract.records import ArtefactKind, Receipt
from job.contract.schema import decode
from launcher.cli.providers import RUNPOD_KEY_VARIABLE
from launcher.pods.runpod_client import ADDRESS_VARIABLE
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.s3 import S3Store
from tests.rehearsal.command import Command
from tests.rehearsal.faults import Mishap
from tests.simulators.runpod import Pod, ProcessPod, Simulator, Timing, kill_holders
from tests.simulators.runpod.pod import Workload

TIMING = Timing(provision=2, start=6, restart=1, host_restart=3, grace=10)
"""An image of a gigabyte or less, and a host that is there at once."""
OUTPUT = "rehearsal"
EPOCHS = 4
CAP_DOLLARS = 0.25
POLL_SECONDS = 0.25
SETTINGS = {
    "RUN__PROVIDER": "runpod",
    "RUN__PRESET": "tinypunks",
    "RUN__NAMESPACE": "rehearsal",
    "POD__IMAGE": "registry.example/rehearsal:1",
    "RECIPE__OUTPUT_NAME": OUTPUT,
    "RECIPE__MAX_EPOCHS": str(EPOCHS),
    "RECIPE__SAVE_EVERY": "1",
    "RECIPE__REPEAT_COUNT": "2",
    "EVALUATION__PROMPTS": "4",
    "EVALUATION__INFERENCE_STEPS": "4",
    "BUDGET__CAP_DOLLARS": str(CAP_DOLLARS),
    "BUDGET__MAX_HOURS": "0.5",
    "BUDGET__TEARDOWN_RESERVE_MINUTES": "2",
    # Everything is near and the simulated list lags by 5 s at most: waiting longer would prove no more.
    "CLOCKS__CREATE_LAG": "15",
    "CLOCKS__STATE_EVERY": "1",
}
PASSED_ON = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "TERM", "COLORTERM")


class Night:
    """One night in a folder that is empty. `shown`: whether commands show what they say."""

    def __init__(
        self, folder: Path, simulator: Simulator, server: EmbeddedServer, *, shown: bool = False
    ) -> None:
        self.folder = folder
        self.simulator = simulator
        self.stranger = simulator.add_stranger("somebody-elses-night")
        self.bucket = server.connect()
        self.store = S3Store(self.bucket)
        self.commands: list[Command] = []
        self._shown = shown

    @property
    def secrets(self) -> dict[str, str]:
        """Everything that must show up nowhere, by what it is."""
        pods = {f"the key of pod {pod.pod_id}": pod.key for pod in self.simulator.pods}
        return {
            "the account's key": self.simulator.account_key,
            "the bucket's access key": self.bucket.access_key,
            "the bucket's secret key": self.bucket.secret_key,
            **pods,
        }

    def start(self, *arguments: str) -> Command:
        """Start a command of retrain."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {f"RETRAIN_{name}": value for name, value in SETTINGS.items()}
        environment |= {
            "HOME": str(home),
            RUNPOD_KEY_VARIABLE: self.simulator.account_key,
            ADDRESS_VARIABLE: self.simulator.serve(),
            "RETRAIN_STORAGE__BUCKET": self.bucket.bucket,
            "RETRAIN_STORAGE__ENDPOINT_URL": self.bucket.endpoint_url or "",
            "RETRAIN_STORAGE__ACCESS_KEY": self.bucket.access_key,
            "RETRAIN_STORAGE__SECRET_KEY": self.bucket.secret_key,
        }
        command = Command(*arguments, cwd=self.folder, environment=environment, shown=self._shown)
        self.commands.append(command)
        return command

    def play(self, *arguments: str, mishaps: Sequence[Mishap]) -> int:
        """Run a command to its end while things happen, one after the other; return its exit code."""
        self.arrange(mishaps)
        command = self.start(*arguments)
        for mishap in mishaps:
            if mishap.strike is not None and (pod := self.after_a_state(command)) is not None:
                mishap.strike(self.simulator, pod.pod_id)
        return command.wait()

    def arrange(self, mishaps: Sequence[Mishap]) -> None:
        """Set what is to go wrong with the provider and its answers."""
        for mishap in mishaps:
            self.simulator.faults.answers.extend(mishap.answers)
            for name, value in mishap.provider.items():
                setattr(self.simulator.faults.conditions, name, value)

    def after_a_state(self, command: Command) -> Pod | None:
        """Wait until a further resume state is in the bucket; return the pod that trains.

        None when the command ended first.
        """
        before = self._states()
        while not command.ended():
            pods = [pod for pod in self.simulator.existing if pod.up_since is not None]
            if pods and self._states() - before:
                return pods[-1]
            time.sleep(POLL_SECONDS)
        return None

    def kill_everybody(self) -> None:
        """SIGKILL every command, and the watchdogs, which outlive even their provider for days."""
        for command in self.commands:
            command.kill()
        kill_holders(self.simulator.account_key)

    def _states(self) -> set[tuple[int, int]]:
        """Return attempt and epoch of the resume states; the bucket keeps the newest two of an attempt."""
        return {(item.attempt, item.epoch) for item in self.receipts(ArtefactKind.STATE)}

    def receipts(self, kind: ArtefactKind) -> list[Receipt]:
        """Return the receipts of all that pods brought to the bucket, of one kind."""
        listed = [item.key for item in self.store.list(keys.RUNS_PREFIX)]
        found = [
            decode(Receipt, self.store.get(key)[0]) for key in listed if key.endswith(keys.RECEIPT_SUFFIX)
        ]
        return [receipt for receipt in found if receipt.kind is kind]


@contextmanager
def night(
    folder: Path, *, shown: bool = False, workload: Callable[[], Workload] | None = None
) -> Iterator[Night]:
    """Set a stage in an empty folder; on leaving, nothing of it runs any more.

    `workload` is what pods do instead of the real job.
    """
    simulator = Simulator(timing=TIMING, workload=lambda pod: (workload or job)())

    def job() -> Workload:
        return ProcessPod(extra={ADDRESS_VARIABLE: simulator.serve()})

    server = EmbeddedServer(folder / "store")
    stage = None
    try:
        stage = Night(folder, simulator, server, shown=shown)
        yield stage
    finally:
        if stage is not None:
            stage.kill_everybody()
        simulator.close(check=False)
        server.stop()
