"""The store or the provider is dead, the pods are not: what ends them, and what is said."""

import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from launcher import actions
from launcher.errors import (
    Exit,
    PodError,
    RetrainError,
    StorageError,
    UsageError,
)
from launcher.inheritance import inherit
from launcher.journal import Held
from launcher.model import Phase
from launcher.outcome import outcome
from launcher.ports import Offer, Stored
from launcher.reconcile import GAP_SECONDS_MAX
from tests.launcher.world import OUTPUT, RUN, FakeWorld


def test_the_hard_deadline_holds_without_the_store(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)
    fake.clock.disturb[4] = lambda: fake.store.fail(10**9)
    with pytest.raises(StorageError, match="every pod was ended at its deadline"):
        fake.loop().drive(RUN)
    assert fake.pods.existing == {} and fake.clock.slept < 300 + 120 + 180


def test_without_store_and_provider_it_is_a_leak(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)

    def silence() -> None:
        fake.store.fail(10**9)
        fake.pods.silent = True

    fake.clock.disturb[4] = silence
    with pytest.raises(RetrainError, match="LEAKED") as caught:
        fake.loop().drive(RUN)
    assert caught.value.exit_code is Exit.LEAKED


def test_the_deadline_holds_though_the_store_died_before_the_first_look(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)
    fake.loop().once(RUN)
    fake.later(61)

    def dies(prefix: str) -> Sequence[Stored]:
        fake.store.fail(10**9)
        return ()

    monkeypatch.setattr(fake.store, "list", dies)
    with pytest.raises(StorageError):
        fake.loop("launcher-2").drive(RUN)
    assert fake.pods.existing == {} and fake.clock.slept < 3600


def test_waiting_for_the_lease_does_not_outwait_the_deadline(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)

    def cron_and_then_nothing() -> None:
        fake.later(61)
        fake.journal("cron").acquire(RUN)
        fake.clock.disturb[fake.clock.sleeps + 2] = lambda: fake.store.fail(10**9)

    fake.clock.disturb[3] = cron_and_then_nothing
    with pytest.raises(StorageError, match="every pod was ended"):
        fake.loop("foreground").drive(RUN)
    assert fake.pods.existing == {}


def test_a_long_download_is_broken_off_when_a_pod_has_to_be_ended(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.pods.job_options = [{"hang_at_epoch": 2}]
    fake.start(max_seconds=300)
    fake.store.chunk_bytes = 1
    real = fake.home.fetch

    def slow(*arguments: object, on_bytes: Callable[[str, int], None], **options: object) -> Path:
        def tick(name: str, count: int) -> None:
            fake.later(20)
            fake.clock.slept += 20
            on_bytes(name, count)

        return real(*arguments, on_bytes=tick, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fake.home, "fetch", slow)  # 44 bytes take 880 seconds
    while not fake.pods.terminated:
        fake.loop().once(RUN)  # nothing of it is an error
        fake.clock.sleep(5)
    ended = fake.pods.bills["pod-1"].ended
    assert ended is not None and ended <= fake.pods.bills["pod-1"].deadline + timedelta(seconds=60)
    monkeypatch.setattr(fake.home, "fetch", real)
    record = fake.loop().drive(RUN)
    assert record.phase.closed and [item.receipt.epoch for item in record.checkpoints()] == [2]


def test_two_hiccups_far_apart_are_no_outage(fake: FakeWorld) -> None:
    """While another launcher holds the run, that it does is an answer of the store."""
    fake.start()
    fake.pods.silent = True  # nothing is rented yet
    cron = fake.journal("cron")
    theirs: list[Held] = []

    def another_works() -> None:
        if not theirs:
            fake.later(61)
            theirs.append(cron.acquire(RUN))
        elif fake.clock.sleeps < 200:
            cron.write(theirs[0], theirs[0].record)
        else:
            fake.pods.silent = False
        if fake.clock.sleeps in (3, 190):
            fake.store.fail(1)

    fake.clock.disturb = dict.fromkeys(range(2, 260), another_works)
    assert fake.loop("foreground").drive(RUN).phase is Phase.DONE
    assert fake.clock.sleeps > 200


def test_one_hiccup_long_after_the_deadline_is_no_leak(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)
    fake.loop().once(RUN)
    fake.later(6 * 3600)
    fake.clock.disturb[1] = lambda: fake.store.fail(1)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.FAILED and fake.pods.existing == {}


def test_what_the_store_refuses_for_good_does_not_keep_a_run_open_for_ever(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.start()
    fake.until_a_checkpoint()
    shutil.rmtree(fake.home.models_dir)
    real = fake.store.download

    def refused(key: str, path: Path, *, offset: int = 0) -> object:
        if "000002" in key:
            raise StorageError("403")
        return real(key, path, offset=offset)

    monkeypatch.setattr(fake.store, "download", refused)
    record = fake.loop().drive(RUN)
    assert record.phase.closed and outcome(record).exit_code is Exit.INCOMPLETE
    assert record.checkpoints_not_home() == (f"{OUTPUT}-000002.safetensors",)


def test_no_pod_is_asked_for_after_its_own_time(fake: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.start(max_seconds=300)
    real = inherit

    def slow(*arguments: object, **options: object) -> object:
        fake.later(400)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(actions, "inherit", slow)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.FAILED and fake.pods.created == []


def test_a_provider_that_never_says_what_is_on_offer_ends_the_run(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> object:
        raise PodError("401")

    monkeypatch.setattr(fake.pods, "offers", silent)
    record = fake.run(max_seconds=600)
    assert record.phase is Phase.FAILED and fake.pods.created == []


def test_a_leaked_run_gets_no_further_attempt(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"hang_at_epoch": 1}]
    fake.pods.stubborn = True
    record = fake.run()
    assert record.phase is Phase.LEAKED
    fake.pods.stubborn = False
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.FAILED and len(fake.pods.created) == 1 and fake.pods.existing == {}


def test_a_launcher_that_died_before_the_end_was_asked_for_is_no_leak(fake: FakeWorld) -> None:
    fake.start()
    fake.until_a_checkpoint()
    fake.journal().request_cancel(RUN)
    fake.pods.silent = True
    fake.loop().once(RUN)
    fake.pods.silent = False
    fake.later(8 * 3600)
    record = fake.loop().drive(RUN)
    assert record.phase is Phase.CANCELLED
    assert record.attempts[0].teardown_seconds <= GAP_SECONDS_MAX


def test_another_machines_pods_are_not_judged_from_here(fake: FakeWorld) -> None:
    fake.start()
    fake.loop().once(RUN)
    fake.pods.place = "another machine"
    with pytest.raises(UsageError, match="another machine"):
        fake.loop().drive(RUN)
    assert fake.pods.existing


def test_a_store_that_stays_away_when_nothing_is_billed_is_not_waited_for_for_ever(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.start()
    fake.until_a_checkpoint()
    fake.journal().request_cancel(RUN)
    monkeypatch.setattr(fake.store, "list", _refuse)  # the run cannot be closed without a look at its results
    fake.clock.disturb[fake.clock.sleeps + 5] = lambda: fake.store.fail(10**9)
    with pytest.raises(StorageError, match="no pod of this run is left") as caught:
        fake.loop().drive(RUN)
    assert fake.pods.existing == {} and f"retrain attach {RUN}" in caught.value.next_step
    fake.store.fail(0)
    monkeypatch.undo()
    fake.later(120)
    assert fake.loop().drive(RUN).phase is Phase.CANCELLED


def _refuse(prefix: str) -> Sequence[Stored]:
    raise StorageError("503")


def test_a_pass_on_which_the_stores_clock_jumped_rents_nothing(
    fake: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a new deadline would be wrong; the next pass, whose two clocks agree, goes on."""
    offers = fake.pods.offers
    looks: list[int] = []

    def jumping() -> Sequence[Offer]:
        if not looks:
            fake.later(1200)
        looks.append(len(fake.pods.created))
        return offers()

    monkeypatch.setattr(fake.pods, "offers", jumping)
    record = fake.run()
    assert looks == [0, 0] and record.phase is Phase.DONE
    assert any("no pod is asked for now: the store's time went +1200 s" in line for line in fake.notes.lines)
