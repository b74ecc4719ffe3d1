"""One pass over many open runs: what it asks of the provider, and that no run is in another one's way."""

from collections import Counter
from dataclasses import replace

import pytest
from pydantic import SecretStr

from job.contract import keys
from job.contract.schema import decode
from launcher.actions import World
from launcher.errors import LeaseHeld, UnreadableRecord
from launcher.model import Lease, Phase, RunRecord
from launcher.pods.runpod import RunpodPods, Wanted
from launcher.pods.runpod_api import RunpodApi
from launcher.ports import Pod, PodSpec
from launcher.rounds import go_round
from tests.launcher.world import FakeWorld
from tests.simulators.runpod import Operation, Simulator

PAGE = 2


def start(fake: FakeWorld, count: int, *, provider: str = "process") -> list[str]:
    """Put the records of so many new runs into the store; return their ids."""
    record = fake.record()
    for number in range(count):
        name = f"punks{number:03d}"
        # A run's files carry its recipe's name: two runs of one name would overwrite each other's for ever.
        recipe = record.spec.recipe.model_copy(update={"output_name": name})
        spec = record.spec.model_copy(update={"output_name": name, "recipe": recipe, "provider": provider})
        spec = spec.model_copy(update={"image": "a/b:1", "disk_gb": 20})
        one = record.model_copy(update={"run_id": f"run-{number:03d}", "spec": spec})
        journal = fake.journal()
        journal.release(journal.create(one))
    return [f"run-{number:03d}" for number in range(count)]


def round_of(fake: FakeWorld, world: World) -> list[RunRecord]:
    found = []
    for looked in go_round(world, fake.journal(), lambda record: record):
        assert looked.error is None and looked.told is not None, looked.error
        found.append(looked.told)
    return found


@pytest.mark.parametrize("count", [3, 30])
def test_calls_of_the_provider_grow_with_pages_not_with_runs(fake: FakeWorld, count: int) -> None:
    names = start(fake, count, provider="runpod")
    with Simulator(lambda: fake.store.at, balance=1000.0) as simulator:
        simulator.faults.conditions.page_size = PAGE
        key = SecretStr(simulator.account_key)
        with RunpodApi(key, clock=fake.clock, transport=simulator.transport()) as api:
            pods = RunpodPods(api, Wanted(gpus=("NVIDIA A40",), disk_gb=20), fake.clock)
            world = replace(fake.world, pods=pods)
            assert [record.run_id for record in round_of(fake, world)] == names
            assert len(simulator.existing) == count
            fake.later(60)
            before = len(simulator.records)
            records = round_of(fake, world)
            asked = Counter(record.operation for record in simulator.records[before:])
            assert [len(record.attempts[0].pod_ids) for record in records] == [1] * count
            assert asked == {Operation.LIST: -(-count // PAGE)}


def test_what_goes_wrong_with_one_run_touches_no_other(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = start(fake, 9)
    fake.store.put(keys.record_key(names[2]), b"not a record")
    held = fake.journal("elsewhere").acquire(names[4])
    real = fake.pods.create

    def create(spec: PodSpec) -> Pod:
        if names[6] in spec.name:
            raise ZeroDivisionError
        return real(spec)

    monkeypatch.setattr(fake.pods, "create", create)
    looked = list(go_round(fake.world, fake.journal(), lambda record: record.run_id))
    assert [item.run_id for item in looked] == names
    errors = {item.run_id: type(item.error) for item in looked if item.error is not None}
    assert errors == {names[2]: UnreadableRecord, names[4]: LeaseHeld, names[6]: ZeroDivisionError}
    assert len(fake.pods.existing) == 6
    fake.journal("elsewhere").release(held)
    leases = [fake.journal().read(name).lease for name in names if name != names[2]]
    assert leases == [None] * 8


def test_a_pass_with_nothing_to_do_takes_few_requests_and_no_lease(fake: FakeWorld) -> None:
    names = start(fake, 5)
    for _ in range(3):
        round_of(fake, fake.world)
        fake.clock.sleep(5)
    fake.store.calls.clear()
    seen: list[Lease | None] = []
    real = fake.store.put

    def put(key: str, data: bytes, **conditions: str) -> str:
        seen.append(decode(RunRecord, data).lease)
        return real(key, data, **conditions)  # type: ignore[arg-type]

    fake.store.put = put  # type: ignore[method-assign, assignment]
    round_of(fake, fake.world)
    assert seen == [None] * len(names)
    # Of each run: the record, the heartbeat, the events, and the receipt of a resume state.
    calls, runs = fake.store.calls, len(names)
    assert calls == {"list": runs + 1, "get": 4 * runs, "now": runs + 1, "put": runs}


def test_closed_runs_are_left_alone(fake: FakeWorld) -> None:
    names = start(fake, 2)
    for _ in range(60):
        round_of(fake, fake.world)
        fake.clock.sleep(5)
    assert [fake.journal().read(name).phase for name in names] == [Phase.DONE] * 2
    assert round_of(fake, fake.world) == []


def test_a_round_that_is_called_off_begins_no_further_run(fake: FakeWorld) -> None:
    start(fake, 40)
    looked = go_round(fake.world, fake.journal(), lambda record: record.run_id)
    next(looked)
    looked.close()  # type: ignore[attr-defined]
    assert len(fake.pods.created) < 40
