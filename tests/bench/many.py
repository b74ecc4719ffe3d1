"""One `retrain reconcile` over many open runs, against the simulated RunPod and the embedded store.

The runs are in the middle of training, each with a pod. Time and memory are those of the command's own
process; the simulator and the store take their share of the same cores.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from job.contract import keys
from job.contract.events import Progress, TrainingStarted
from job.contract.recipe import Recipe, TrainerName
from job.contract.records import Heartbeat, Stage
from launcher.model import Attempt, Budget, Phase, RunRecord, RunSpec
from launcher.naming import PodName
from launcher.storage.embedded import EmbeddedServer
from launcher.storage.s3 import S3Store
from tests.bench.figures import Figure
from tests.simulators.runpod import Operation, Simulator

GROUP = "many runs"
SECONDS_MAX = 30.0
MEGABYTES_MAX = 300.0
PAGE = 100
"""Pods on a page of the simulator's list."""
WRITERS = 8


@dataclass(frozen=True)
class Pass:
    """One command."""

    runs: int
    seconds: float
    megabytes: float
    lists: int
    others: int
    """Requests to the provider that were no lists."""


def measure(folder: Path, *, quick: bool) -> Iterator[Figure]:
    """Yield the figures."""
    for runs in (10, 100) if quick else (10, 100, 1000):
        found = _measured(folder / str(runs), runs)
        pages = -(-runs // PAGE)
        name = f"retrain reconcile, {runs} open runs"
        yield _figure(
            f"{name}: time",
            found.seconds / SECONDS_MAX,
            f"{SECONDS_MAX:g} s = 1",
            f"{found.seconds:.1f} s",
            at_most=1,
        )
        yield _figure(
            f"{name}: memory",
            found.megabytes / MEGABYTES_MAX,
            f"{MEGABYTES_MAX:g} MB = 1",
            f"{found.megabytes:.0f} MB at most",
            at_most=1,
        )
        yield _figure(
            f"{name}: requests to the provider",
            (found.lists + found.others) / pages,
            "pages of its list = 1",
            f"{found.lists} lists, {found.others} others",
            at_most=1,
        )


def _figure(name: str, ratio: float, means: str, note: str, *, at_most: float) -> Figure:
    return Figure(GROUP, name, ratio, ratio, ratio, 1, means, at_most=at_most, note=note)


def _measured(folder: Path, runs: int) -> Pass:
    folder.mkdir()
    server = EmbeddedServer(folder / ".retrain" / "store")
    with Simulator(balance=1e6) as simulator:
        simulator.faults.conditions.page_size = PAGE
        simulator.catalog.set_stock(runs)
        try:
            _fill(S3Store(server.connect()), simulator, runs)
            before = len(simulator.records)
            seconds, kilobytes = _reconcile(folder, simulator)
            asked = [record.operation for record in simulator.records[before:]]
        finally:
            server.stop()
    lists = asked.count(Operation.LIST)
    return Pass(runs, seconds, kilobytes / 1000, lists, len(asked) - lists)


def _reconcile(folder: Path, simulator: Simulator) -> tuple[float, int]:
    """Make the pass in a process of its own; return its seconds and its most resident kilobytes."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RETRAIN_", "RUNPOD_"))}
    began = time.perf_counter()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("retrain"), "reconcile", "--provider", "runpod", "--json"],
        cwd=folder,
        env=own | {"RUNPOD_API_KEY": simulator.account_key, "RUNPOD_API_BASE_URL": simulator.serve()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"reconcile ended with {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss


def _fill(store: S3Store, simulator: Simulator, runs: int) -> None:
    now = store.now()
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(lambda number: _put_run(store, simulator, f"bench-{number:06d}", now), range(runs)):
            pass


def _put_run(store: S3Store, simulator: Simulator, run_id: str, now: datetime) -> None:
    """Put a run into the store, and its pod into the account, as they are in the middle of training."""
    began, deadline = now - timedelta(hours=1), (now + timedelta(hours=2)).replace(microsecond=0)
    name = str(PodName("default", run_id, 1, deadline))
    pod = simulator.add_stranger(name)
    attempt = Attempt(
        number=1,
        pod_name=name,
        offer=pod.gpu_id,
        intent_at=began,
        price_ceiling=pod.price_per_hour,
        stop_at=deadline - timedelta(minutes=10),
        hard_deadline=deadline,
        pod_ids=(pod.pod_id,),
        asked_at=began,
        created_at=began,
        price_per_hour=pod.price_per_hour,
        booted_at=began + timedelta(minutes=5),
    )
    spec = RunSpec(
        output_name=run_id,
        provider="runpod",
        trainer=TrainerName.KOHYA,
        recipe=Recipe(output_name=run_id),
        inputs=(),
        budget=Budget(cap_dollars=5, max_seconds=12 * 3600),
    )
    record = RunRecord(
        run_id=run_id,
        created_at=began,
        spec=spec,
        phase=Phase.TRAINING,
        attempts=(attempt,),
        passed_at=now - timedelta(minutes=1),
    )
    head = {"run_id": run_id, "attempt": 1, "life": 1, "at": datetime.now(UTC)}
    log = [
        TrainingStarted.model_validate(
            {
                **head,
                "seq": 1,
                "total_steps": 1000,
                "steps_per_epoch": 100,
                "total_epochs": 10,
                "first_step": 0,
            }
        ),
        *(
            Progress.model_validate(
                {**head, "seq": step + 1, "step": step, "total_steps": 1000, "epoch": step // 100}
            )
            for step in range(1, 201)
        ),
    ]
    prefix = keys.attempt_prefix(run_id, 1)
    heartbeat = Heartbeat.model_validate({**head, "stage": Stage.TRAINING})
    store.put(prefix + keys.heartbeat(1), heartbeat.encode())
    store.put(prefix + keys.events(1), b"".join(event.encode() + b"\n" for event in log))
    store.put(keys.record_key(run_id), record.encode())
