"""A workspace whose launchers, jobs, trainers and store are killed, and what is seen of it from the outside.

Knows the command line, the process table, the bucket and the folders: what a person could look at, too.
"""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from job.contract import keys
from job.contract.manifest import POD_ID_VARIABLE
from job.contract.records import ArtefactKind, Receipt
from job.contract.schema import decode
from launcher.errors import RetrainError
from launcher.journal import Journal, this_launcher
from launcher.machine.locking import FileLock
from launcher.model import RunRecord
from launcher.ports import Store
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.local_bucket import BUCKET
from launcher.storage.s3 import S3Store
from launcher.storage.s3_config import S3Config
from launcher.storage.server_state import ServerState
from launcher.storage.weed import HOST
from tests.crash.kills_trainer import checkpoint, link_of
from tests.job.scripted_child import safetensors

SEED = int(os.environ.get("RETRAIN_CRASH_SEED", "20260807"))
"""Of everything that is sampled where real processes die."""
ROOT = Path(__file__).parents[2]
TRAINER = Path(__file__).with_name("kills_trainer.py")
RANK = 4
EPOCHS = 6
SAVED = (2, 4, 6)
SETTINGS = f"""
[run]
training_zip = "data.zip"
base_model = "base"
[recipe]
max_epochs = {EPOCHS}
save_every = 2
resolution = [24, 24]
batch_size = 1
repeat_count = 1
lora_dim = {RANK}
[evaluation]
prompts = 2
measure_start = false
[clocks]
poll = 0.1
heartbeat = 0.5
progress = 0.1
lease = 10
grace = 5
"""
SECRET = re.compile(rb"X-Amz-Signature=[0-9a-f]{8}|X-Amz-Credential=")


def pod_sources(folder: Path) -> Path:
    """Write what a pod of these tests starts from: the job as it is, trained by `kills_trainer`."""
    folder.mkdir()
    for package in ("job", "tests"):
        (folder / package).symlink_to(ROOT / package)
    (folder / "sitecustomize.py").write_text("import tests.crash.kills_pod\n")
    return folder


def until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not in {seconds:.0f} s"
        time.sleep(0.01)


@dataclass
class Command:
    """One `retrain ...`, as it was or is."""

    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path

    def ended(self) -> bool:
        """Whether it is over."""
        return self.process.poll() is not None

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(timeout=300)

    def said(self) -> str:
        """Return its narration so far."""
        return self.err.read_text(errors="replace")

    def result(self) -> dict[str, Any]:
        """Return the JSON object that it printed."""
        found: dict[str, Any] = json.loads(self.out.read_text())
        return found


@dataclass
class Site:
    """One workspace with its store; several runs, one after another."""

    folder: Path
    commands: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        with zipfile.ZipFile(self.folder / "data.zip", "w") as archive:
            for number in range(2):
                archive.writestr(f"{number}.png", _picture(number))
                archive.writestr(f"{number}.txt", f"pixel art, punk {number}")
        _write_base(self.folder / "base")
        (self.folder / "retrain.toml").write_text(SETTINGS)
        (self.folder / "said").mkdir()
        self.sources = pod_sources(self.folder / "sources")
        self.store_folder = self.folder / ".retrain/store"
        self.store_folder.mkdir(parents=True)
        # Stopping and starting the store costs seconds that no case needs: whoever uses it keeps it up.
        self._use = FileLock(self.store_folder / "users.lock")
        assert self._use.take(shared=True)

    def argv(self, *arguments: str) -> list[str]:
        """Return the command line of a command."""
        return [sys.executable, "-m", "tests.crash.kills_launcher", str(self.sources), *arguments]

    def start(self, *arguments: str, host: str = "") -> Command:
        """Start a command in the background, on another machine where a `host` is named."""
        number = len(self.commands)
        out, err = (self.folder / "said" / f"{number:03d}.{kind}" for kind in ("out", "err"))
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                self.argv(*arguments),
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "RETRAIN_TEST_HOST": host},
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                start_new_session=True,
            )
        self.commands.append(Command(process, out, err))
        return self.commands[-1]

    def run(self, *arguments: str, host: str = "") -> Command:
        """Run a command to its end."""
        command = self.start(*arguments, host=host)
        command.wait()
        return command

    # What is to be seen

    def store(self) -> Store:
        """Return the bucket as it is now; starts no server. Raises StorageError before the first start."""
        state = ServerState.read(self.store_folder / "server.json")
        if state is None:
            raise RetrainError("no store yet")
        return S3Store(
            S3Config(
                bucket=BUCKET,
                endpoint_url=f"http://{HOST}:{state.ports.s3}",
                access_key=state.access_key,
                secret_key=state.secret_key,
            )
        )

    def record(self, name: str) -> RunRecord | None:
        """Return the newest run of this name, None where there is none. Raises RetrainError."""
        journal = Journal(self.store(), this_launcher())
        found = [journal.read(run_id) for run_id in journal.run_ids()]
        return next((record for record in reversed(found) if record.spec.output_name == name), None)

    def written(self, run_id: str) -> list[str]:
        """Return the keys of all that the run's pods wrote, without attempt numbers."""
        prefix = keys.run_prefix(run_id) + "attempts/"
        return [item.key.removeprefix(prefix).partition("/")[2] for item in self.store().list(prefix)]

    def receipts(self, run_id: str) -> list[Receipt]:
        """Return the receipts of everything that must come home."""
        store = self.store()
        listed = store.list(keys.run_prefix(run_id) + "attempts/")
        found = [
            decode(Receipt, store.get(item.key)[0])
            for item in listed
            if item.key.endswith(keys.RECEIPT_SUFFIX)
        ]
        return [receipt for receipt in found if receipt.kind is not ArtefactKind.STATE]

    def home(self, receipt: Receipt) -> Path:
        """Return where the artefact of a receipt is documented to lie."""
        name = receipt.key.rpartition("/")[2]
        if receipt.kind is ArtefactKind.CHECKPOINT:
            return self.folder / "models" / name
        output = self.output_name(receipt)
        part = "samples" if receipt.kind is ArtefactKind.SAMPLES else "scores"
        return self.folder / "models" / output / part / name

    def output_name(self, receipt: Receipt) -> str:
        """Return the output name of the receipt's run."""
        return Journal(self.store(), this_launcher()).read(receipt.run_id).spec.output_name

    def processes(self, run_id: str) -> list[psutil.Process]:
        """Return the living processes of a run's pods: a pod's id contains the run's."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                pod = process.environ().get(POD_ID_VARIABLE, "")
                if run_id in pod and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    # What is done to it

    def store_pid(self) -> int | None:
        """Return the process of the store's server, None where it does not run."""
        state = ServerState.read(self.store_folder / "server.json")
        alive = state is not None and state.process is not None and state.process.is_alive()
        return state.process.pid if state and state.process and alive else None

    def kill_store(self) -> bool:
        """SIGKILL the store's server; whether there was one."""
        pid = self.store_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            until(lambda: self.store_pid() is None, "the end of the killed store")
        return pid is not None

    def jobs(self, run_id: str) -> list[psutil.Process]:
        """Return the supervisors of a run's pods."""
        return [p for p in self.processes(run_id) if _cmdline(p)[1:3] == ["-m", "job"]]

    def trainers(self, run_id: str) -> list[psutil.Process]:
        """Return the trainers of a run's pods."""
        return [p for p in self.processes(run_id) if _cmdline(p)[1:2] == [str(TRAINER)]]

    def close(self) -> None:
        """End whatever is left, and the store."""
        for command in self.commands:
            if not command.ended():
                command.process.kill()
                command.process.wait()
        ids = {path.name for path in self.folder.glob(".retrain/pods/*")}
        for pod_id in ids:
            kill(self.processes(pod_id))
        self._use.release()
        EmbeddedServer(self.store_folder).stop()


def _picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (100 * number, 50, 50)).save(buffer, "png")
    return buffer.getvalue()


def _write_base(folder: Path) -> None:
    """Write what passes for a base model until somebody loads it."""
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        (folder / part / "model.safetensors").write_bytes(safetensors(RANK, 0.5))
    (folder / "model_index.json").write_text("{}")


def expected_checkpoint(epoch: int) -> str:
    """Return the SHA-256 that the checkpoint of an epoch has if no step was lost, repeated or swapped."""
    return hashlib.sha256(checkpoint(link_of(epoch), RANK)).hexdigest()


def sha256(path: Path) -> str | None:
    """Return the hash of a file, None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def kill(processes: list[psutil.Process]) -> bool:
    """SIGKILL some processes; whether there were any."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return bool(processes)
