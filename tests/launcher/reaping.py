"""A started run, somebody else's pods, and a reaper in a world of fakes."""

from contextlib import nullcontext
from datetime import timedelta

from launcher.ending.reaper import Reaper
from launcher.model import RunRecord
from launcher.ports import Pod, PodState
from tests.fakes.pods import Bill
from tests.launcher.world import RUN, FakeWorld

NAMESPACE = "default"
CREATE_LAG = timedelta(seconds=120)


def started(fake: FakeWorld, **budget: float) -> RunRecord:
    """Start a run, let its pod be made, and let its launcher die."""
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(**budget)
    return fake.loop().once(RUN)


def stranger(fake: FakeWorld, name: str) -> Pod:
    """Put a pod into the account that no launcher here asked for."""
    pods = fake.pods
    pod = Pod(f"pod-{len(pods.bills) + 1}", name, PodState.RUNNING, fake.store.at, 0.5)
    pods.existing[pod.pod_id] = pod
    pods.bills[pod.pod_id] = Bill(name, 0.5, fake.store.at, fake.store.at)
    return pod


def reaper_of(fake: FakeWorld, *, run_id: str | None = None) -> Reaper:
    """Return who has nothing but the provider and, where it answers, the store."""
    return Reaper(
        fake.pods,
        fake.clock,
        fake.notes,
        namespace=NAMESPACE,
        run_id=run_id,
        create_lag=CREATE_LAG,
        store=lambda: nullcontext(fake.store),
    )
