"""Pods of the simulated RunPod that are processes of this machine, in real time."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.simulators.asking import names, rent
from tests.simulators.runpod import Pod, ProcessPod, Simulator, Timing

QUICK = Timing(provision=0.1, start=0.1, restart=0.2, host_restart=0.2, grace=1.5)
FAMILY = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
print("up", os.environ["RUNPOD_POD_ID"], sorted(os.listdir(".")), flush=True)
open("left-behind", "w").close()
time.sleep(100)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(100)
"""


@contextmanager
def night(*command: str) -> Iterator[tuple[Simulator, httpx.Client]]:
    """Yield a simulator whose pods run a command, the job itself when none is given, and a client."""

    def workload(pod: Pod) -> ProcessPod:
        return ProcessPod(command=[sys.executable, *command]) if command else ProcessPod()

    with Simulator(timing=QUICK, workload=workload) as simulator:
        head = {"Authorization": f"Bearer {simulator.account_key}", "User-Agent": "tests/1"}
        with httpx.Client(base_url=simulator.serve(), headers=head, trust_env=False) as client:
            yield simulator, client


def wait_until(true: Callable[[], object], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.02)


def said(cloud: Simulator) -> list[str]:
    return [line.text for line in list(cloud.pods[0].logs)]


def alive(key: str) -> int:
    count = 0
    for process in psutil.process_iter():
        try:
            count += process.environ().get("RUNPOD_API_KEY") == key
        except (psutil.Error, OSError):
            continue
    return count


def test_a_pods_whole_family_ends_with_it() -> None:
    with night("-c", FAMILY) as (cloud, api):
        pod_id = rent(api)["id"]
        wait_until(lambda: f"up {pod_id} []" in said(cloud))
        assert alive(cloud.pods[0].key) == 2
        api.delete(f"/v2/pods/{pod_id}").raise_for_status()
        wait_until(lambda: not cloud.existing)
        assert alive(cloud.pods[0].key) == 0


def test_a_host_restart_wipes_the_disk_and_starts_again() -> None:
    with night("-c", FAMILY) as (cloud, api):
        pod_id = rent(api)["id"]
        wait_until(lambda: said(cloud).count(f"up {pod_id} []") == 1)
        cloud.host_restarts(pod_id)
        wait_until(lambda: said(cloud).count(f"up {pod_id} []") == 2)
        assert alive(cloud.pods[0].key) == 2
        cloud.host_kills(pod_id)
        assert alive(cloud.pods[0].key) == 0
        assert names(api) == []


def test_who_does_not_hear_sigterm_is_killed_when_grace_is_over() -> None:
    with night("-c", DEAF) as (cloud, api):
        pod_id = rent(api)["id"]
        wait_until(lambda: "up" in said(cloud))
        api.delete(f"/v2/pods/{pod_id}").raise_for_status()
        assert names(api) == ["night"]
        wait_until(lambda: not cloud.existing)
        assert "container exited with code 137" in said(cloud)


def test_a_main_process_that_ends_is_started_again() -> None:
    with night("-c", "print('up', flush=True)") as (cloud, api):
        pod_id = rent(api)["id"]
        wait_until(lambda: said(cloud).count("up") >= 3)
        assert api.get(f"/v2/pods/{pod_id}").json()["status"] == "RUNNING"


def test_closing_ends_what_runs() -> None:
    with night("-c", FAMILY) as (cloud, api):
        rent(api)
        wait_until(lambda: cloud.pods[0].up_since and alive(cloud.pods[0].key) == 2)
        key = cloud.pods[0].key
    assert alive(key) == 0


@pytest.mark.slow
def test_the_real_job_runs_in_a_pod() -> None:
    with night() as (cloud, api):
        # Without a manifest: the job says so and ends its pod.
        rent(api, env={"RUNPOD_API_BASE_URL": cloud.serve()})
        wait_until(lambda: not cloud.existing)
        assert any("RETRAIN_MANIFEST_URL is not set" in text for text in said(cloud))
