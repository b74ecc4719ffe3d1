"""A whole run as a person starts it, seen from outside: how soon a checkpoint is home and its pod is gone,
and what the launcher takes while it watches.

Times are what the files and the launcher's own lines say: when the trainer wrote a checkpoint, when it got
its name at home (which it gets once it is verified), when the launcher said that the pod is confirmed gone.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from launcher.pods.process import ProcessPods
from launcher.storage.embedded import EmbeddedServer
from tests.bench.figures import Figure, spread

GROUP = "a whole run"
OUTPUT = "bench"
EPOCHS = 4
POLL_SECONDS = 1.0
"""Of the example's preset: how often the launcher looks."""
LOOK_SECONDS = 0.1
SETTINGS = f"""
[recipe]
output_name = "{OUTPUT}"
max_epochs = {EPOCHS}
save_every = 1
repeat_count = 1
batch_size = 4
[evaluation]
enabled = false
[clocks]
poll = {POLL_SECONDS}
"""
PLAIN = "import boto3, pydantic; boto3.client('s3', region_name='us-east-1', endpoint_url='http://localhost')"


@dataclass
class Watched:
    """One run."""

    written: dict[str, float] = field(default_factory=dict)
    """When the trainer completed each checkpoint, in epoch seconds, by name."""
    arrived: dict[str, float] = field(default_factory=dict)
    """When each got its name at home."""
    lines: list[tuple[float, str]] = field(default_factory=list)
    """What the launcher said, and when."""
    usage: list[tuple[float, float, int]] = field(default_factory=list)
    """Time, processor seconds and resident bytes of the launcher."""

    def said_at(self, words: str) -> float:
        """Return when the launcher first said something. Raises RuntimeError when it never did."""
        for moment, line in self.lines:
            if words in line:
                return moment
        raise RuntimeError(f"the launcher never said {words!r}: {[line for _, line in self.lines]}")

    def arrivals(self) -> list[float]:
        """Return the seconds from each checkpoint's completion to its verified arrival."""
        return [self.arrived[name] - moment for name, moment in self.written.items()]

    def teardown(self) -> float:
        """Return the seconds from the last step to the pod's confirmed absence."""
        return self.said_at("confirmed gone") - max(self.written.values())

    def while_training(self) -> list[tuple[float, float, int]]:
        """Return the launcher's usage between the first checkpoint and the last."""
        began, ended = min(self.written.values()), max(self.written.values())
        return [item for item in self.usage if began <= item[0] <= ended]


def measure(folder: Path, *, quick: bool) -> Iterator[Figure]:
    """Yield the figures."""
    (folder / "retrain.toml").write_text(SETTINGS)
    try:
        runs = [_watch(folder) for _ in range(1 if quick else 3)]
    finally:
        _leave_nothing(folder / ".retrain")
    arrivals = [seconds for run in runs for seconds in run.arrivals()]
    yield Figure(
        group=GROUP,
        name="checkpoint complete to verified at home",
        **spread([seconds / POLL_SECONDS for seconds in arrivals]),
        means="time between two looks = 1",
        note=f"looks every {POLL_SECONDS:g} s",
    )
    yield Figure(
        group=GROUP,
        name="last step to pod confirmed absent",
        **spread([run.teardown() / POLL_SECONDS for run in runs]),
        means="time between two looks = 1",
        note="evaluation switched off; the trainer's own end and the last upload included",
    )
    yield Figure(
        group=GROUP,
        name="launcher's processor while it watches",
        **spread([_processor_share(run) for run in runs]),
        means="one core = 1",
        note=f"looks every {POLL_SECONDS:g} s, three transfers included",
    )
    plain = [_plain_bytes() for _ in runs]
    yield Figure(
        group=GROUP,
        name="launcher's memory while it watches",
        **spread(
            [
                max(run.usage, key=lambda item: item[2])[2] / base
                for run, base in zip(runs, plain, strict=True)
            ]
        ),
        means="a Python with boto3's client and pydantic = 1",
        note=f"at most {max(item[2] for run in runs for item in run.usage) / 1e6:.0f} MB resident",
    )


def _watch(folder: Path) -> Watched:
    """Start a run, look on until it has ended."""
    watched, names = Watched(), [f"{OUTPUT}-{epoch:06d}.safetensors" for epoch in range(1, EPOCHS + 1)]
    launcher = subprocess.Popen(
        [Path(sys.executable).with_name("retrain"), "run", "--json"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("RETRAIN_")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert launcher.stdout is not None and launcher.stderr is not None
    stderr = launcher.stderr

    def listen() -> None:
        for line in stderr:
            watched.lines.append((time.time(), line.decode(errors="replace").rstrip()))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    process = psutil.Process(launcher.pid)
    try:
        while launcher.poll() is None:
            _look(watched, process, folder)
            time.sleep(LOOK_SECONDS)
    finally:
        if launcher.poll() is None:
            launcher.terminate()
        out = launcher.stdout.read()
        launcher.wait()
        listener.join(timeout=5)
    if launcher.returncode:
        raise RuntimeError(f"the run ended with {launcher.returncode}: {[line for _, line in watched.lines]}")
    if json.loads(out)["phase"] != "done" or sorted(watched.written) != names:
        raise RuntimeError(f"not all was seen: {sorted(watched.written)}")
    # The name is given by a rename, which is what the time of the last change of status is of.
    watched.arrived = {name: (folder / "models" / name).stat().st_ctime_ns / 1e9 for name in names}
    return watched


def _leave_nothing(workspace: Path) -> None:
    """End what a run that was interrupted has left, and the store."""
    pods = ProcessPods(workspace / "pods", place="")
    for folder in workspace.glob("pods/*"):
        pods.terminate(folder.name)
    EmbeddedServer(workspace / "store").stop()


def _look(watched: Watched, process: psutil.Process, folder: Path) -> None:
    for path in folder.glob(f".retrain/pods/*/scratch/*/life-*/output/{OUTPUT}-*.safetensors"):
        try:
            watched.written.setdefault(path.name, path.stat().st_mtime_ns / 1e9)
        except FileNotFoundError:
            continue
    try:
        times, memory = process.cpu_times(), process.memory_info()
    except psutil.Error:
        return
    watched.usage.append((time.time(), times.user + times.system, memory.rss))


def _processor_share(run: Watched) -> float:
    usage = run.while_training()
    return (usage[-1][1] - usage[0][1]) / (usage[-1][0] - usage[0][0])


def _plain_bytes() -> int:
    """Return the resident bytes of a process that has loaded what the launcher cannot do without."""
    code = f"{PLAIN}; import psutil, sys; sys.stdout.write(str(psutil.Process().memory_info().rss))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
