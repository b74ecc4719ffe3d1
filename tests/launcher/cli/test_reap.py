"""`retrain reap` on a simulated RunPod: what it shows, what it ends, what it leaves, what it exits with."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from job.contract import keys
from launcher.cli import root
from launcher.cli.reap import reaper_of
from launcher.ending.leaks import LeakNotes
from launcher.errors import Exit, Leaked
from launcher.naming import PodName
from launcher.settings import load_settings
from tests.fakes.pods import FakePods, Notes
from tests.fakes.store import FakeStore
from tests.simulators.asking import rent
from tests.simulators.runpod import Conditions, FakeClock, Operation, Simulator, Trouble

HOUR = timedelta(hours=1)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Simulator]:
    """An account at RunPod, and a workspace with nothing but its key and a namespace."""
    with Simulator(FakeClock()) as simulator:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("RUNPOD_API_BASE_URL", simulator.serve())
        monkeypatch.setenv("RUNPOD_API_KEY", simulator.account_key)
        monkeypatch.setenv("RETRAIN_RUN__PROVIDER", "runpod")
        monkeypatch.setenv("RETRAIN_RUN__NAMESPACE", "mine")
        yield simulator


@pytest.fixture
def make(cloud: Simulator) -> Iterator[Callable[..., str]]:
    """Rent a pod as a launcher does; its deadline lies an hour ahead."""
    headers = {"Authorization": f"Bearer {cloud.account_key}", "User-Agent": "tests/1"}
    with httpx.Client(base_url=cloud.serve(), headers=headers, trust_env=False) as api:

        def one(run_id: str = "run-1", *, namespace: str = "mine", after: timedelta = HOUR) -> str:
            name = PodName(namespace, run_id, 1, cloud.now() + after)
            return str(rent(api, str(name))["id"])

        yield one


def reap(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = root.execute(["reap", "--json", *arguments])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def changes(cloud: Simulator) -> list[Operation]:
    reads = {Operation.LIST, Operation.GET, Operation.CREATE}
    return [record.operation for record in cloud.records if record.operation not in reads]


def test_a_dry_run_shows_and_changes_nothing(
    cloud: Simulator, make: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    late, young = make(), make("run-2", after=2 * HOUR)
    make("run-3", namespace="other")
    cloud.add_stranger("notebook")
    cloud.advance(3600)
    code, found = reap(capsys)
    assert code == Exit.LEAKED and found["acted"] is False
    assert {row["pod_id"]: (row["due"], row["gone"]) for row in found["pods"]} == {
        late: (True, False),
        young: (False, False),
    }
    assert changes(cloud) == [] and len(cloud.existing) == 3
    assert root.execute(["reap"]) == Exit.LEAKED
    out, err = capsys.readouterr()
    assert f"would end  {late}" in out and f"leave      {young}" in out and "hard deadline passed" in out
    assert "notebook" not in out and "run-3" not in out and "retrain reap --yes" in err


def test_yes_ends_what_must_end_and_nothing_else(
    cloud: Simulator, make: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    late, young, other = make(), make("run-2", after=2 * HOUR), make("run-3", namespace="other")
    hers = cloud.add_stranger("retrain-mine-run-1-1-soon")
    cloud.advance(3600)
    code, found = reap(capsys, "--yes")
    assert code == Exit.DONE
    assert [(row["pod_id"], row["gone"]) for row in found["pods"] if row["due"]] == [(late, True)]
    assert {pod.pod_id for pod in cloud.existing} == {young, other} and hers.exists
    assert cloud.touched_strangers == []
    code, found = reap(capsys, "--yes")
    assert code == Exit.DONE and [row["pod_id"] for row in found["pods"]] == [young]


def noted(pod_id: str, name: str, provider: str = "runpod") -> LeakNotes:
    """Note a pod that belongs to no record any more, as a launcher does."""
    notes = LeakNotes(load_settings().run.workspace)
    leak = Leaked("LEAKED: a pod", pods={name: [pod_id] if pod_id else []}, on_record=False)
    notes.note("run-1", leak, FakePods(FakeStore(), provider))
    return notes


@pytest.mark.parametrize("known", [True, False])
def test_notes_of_pods_that_are_proven_gone_are_removed(
    cloud: Simulator, make: Callable[..., str], known: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    pod_id = make()
    (pod,) = cloud.existing
    notes = noted(pod_id if known else "", pod.name)
    reap(capsys, "--yes")
    cloud.advance(3600 - 1)
    reap(capsys, "--yes")
    assert notes.read() and cloud.existing  # it may work until its deadline
    cloud.advance(1)
    cloud.refuse_terminations(cloud.now() + HOUR)
    assert reap(capsys, "--yes", "--wait", "0")[0] == Exit.LEAKED
    cloud.advance(1800)
    reap(capsys)
    assert notes.read()
    cloud.advance(1800)
    assert reap(capsys, "--yes")[0] == Exit.DONE and not notes.read() and not notes.path.exists()


def test_notes_of_pods_that_somebody_else_ended_are_removed(
    cloud: Simulator, make: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Their records may be in a store that is out of reach for ever."""
    name = str(PodName("mine", "run-1", 1, cloud.now()))
    notes = noted("long-gone", name)
    noted("of-a-machine", name, "process")
    noted("of-another", str(PodName("other", "run-1", 1, cloud.now())))
    cloud.advance(119)
    reap(capsys, "--yes")
    assert len(notes.read()) == 3  # so young a pod may not be known everywhere
    cloud.advance(1)
    cloud.trouble(Trouble.SERVER_ERROR, Operation.DELETE)
    reap(capsys, "--yes")
    assert len(notes.read()) == 3
    reap(capsys, "--yes")
    assert {note.pod_id for note in notes.read()} == {"of-a-machine", "of-another"}


def test_refused_for_an_hour_is_8_and_later_it_goes(
    cloud: Simulator, make: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    late = make()
    cloud.advance(3600)
    cloud.refuse_terminations(cloud.now() + HOUR)
    code, found = reap(capsys, "--yes", "--wait", "0.2")
    assert (code, found["pods"][0]["gone"]) == (Exit.LEAKED, False)
    assert root.execute(["reap", "--yes", "--wait", "0"]) == Exit.LEAKED
    out, err = capsys.readouterr()
    assert f"NOT GONE   {late}" in out
    assert f"LEAKED: pod {late}" in err and "an hour" in err and "console.runpod.io" in err
    cloud.advance(3600)
    code, found = reap(capsys, "--yes")
    assert (code, found["pods"][0]["gone"]) == (Exit.DONE, True) and cloud.existing == []


@pytest.mark.parametrize("trouble", [Trouble.SERVER_ERROR, Trouble.DISCONNECT])
def test_an_end_whose_answer_was_lost_is_confirmed_all_the_same(
    cloud: Simulator, make: Callable[..., str], capsys: pytest.CaptureFixture[str], trouble: Trouble
) -> None:
    make()
    cloud.advance(3600)
    cloud.trouble(trouble, Operation.DELETE, after_effect=True)
    assert reap(capsys, "--yes", "--wait", "20")[0] == Exit.DONE and cloud.existing == []


def test_a_provider_that_does_not_list_is_no_empty_account(
    cloud: Simulator, make: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    cloud.advance(3600)
    cloud.trouble(Trouble.UNAUTHORIZED, Operation.LIST, times=None)
    assert root.execute(["reap", "--yes"]) == Exit.INFRASTRUCTURE
    assert capsys.readouterr().out == "" and len(cloud.existing) == 1


def test_a_clock_of_this_machine_that_is_a_day_ahead_ends_nothing(
    cloud: Simulator, make: Callable[..., str]
) -> None:
    """The simulator's time is years behind this machine's."""
    make()
    sight = reaper_of(load_settings(), Notes()).look()
    assert sight.now < cloud.now() + timedelta(minutes=5) and not sight.due


def test_a_bucket_without_keys_or_answer_leaves_the_names(
    cloud: Simulator, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("RETRAIN_STORAGE__BUCKET", "nowhere")
    make()
    assert reap(capsys)[0] == Exit.DONE
    cloud.advance(3600)
    monkeypatch.setenv("RETRAIN_STORAGE__ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RETRAIN_STORAGE__ACCESS_KEY", "a")
    monkeypatch.setenv("RETRAIN_STORAGE__SECRET_KEY", "b")
    assert reap(capsys, "--yes")[0] == Exit.DONE and cloud.existing == []


def test_a_lagging_list_and_end_are_waited_for(
    cloud: Simulator, make: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.faults.conditions = Conditions(end_lag_seconds=30, page_size=1)
    for number in range(3):
        make(f"run-{number}")
    cloud.advance(3600)
    assert reap(capsys, "--yes", "--wait", "0.2")[0] == Exit.LEAKED
    cloud.advance(30)
    code, found = reap(capsys)
    assert code == Exit.DONE and found["pods"] == []


def test_a_pass_without_pods_loads_no_store(cloud: Simulator) -> None:
    """For cron and small functions: boto3 is half a second and 50 MB."""
    code = (
        "import sys; from launcher.cli.root import execute; assert execute(['reap']) == 0;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert cloud.records and not {"boto3", "botocore", "runpod", "numpy", "PIL"} & set(done.stdout.split())


@pytest.mark.parametrize("provider", ["runpod", "process"])
def test_only_a_reaper_of_rented_pods_counts_as_one(
    cloud: Simulator, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    store = FakeStore()
    monkeypatch.setattr("launcher.cli.wiring.store_as_it_is", lambda *_: nullcontext(store))
    monkeypatch.setenv("RETRAIN_STORAGE__BUCKET", "runs")
    assert root.execute(["reap", "--yes", "--provider", provider]) == Exit.DONE
    shown = [item.key for item in store.list("") if item.key.endswith(keys.reaper_key("mine"))]
    assert bool(shown) is (provider == "runpod")
