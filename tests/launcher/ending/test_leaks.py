"""Leaked pods come first in every command, are tried again for a moment, and what came of it is true."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.cli import leaks, root
from launcher.cli.follow import follow
from launcher.cli.leaks import retry_leaked, show_noted_leaks
from launcher.ending.haste import Hurried
from launcher.ending.leaks import LeakNotes
from launcher.errors import Exit, Leaked, PodError, UsageError
from launcher.machine.clock import SystemClock
from launcher.model import Phase
from launcher.ports import Pod
from tests.fakes.pods import Notes
from tests.launcher.test_following import place_of
from tests.launcher.world import RUN, FakeWorld


@pytest.fixture
def leaked(fake: FakeWorld, capsys: pytest.CaptureFixture[str]) -> FakeWorld:
    """A run whose pod could not be ended."""
    fake.start()
    fake.pods.stubborn = True
    place, _ = place_of(fake)
    assert follow(place, RUN, as_json=False) == Exit.LEAKED
    capsys.readouterr()
    return fake


def lost(run_id: str, pod_id: str = "abc", *, on_record: bool = True) -> Leaked:
    pods = {f"retrain-default-{run_id}-1-1767229200": [pod_id]}
    return Leaked(f"LEAKED: pod {pod_id} may still run", pods=pods, on_record=on_record)


def test_what_was_tried_again_in_vain_is_told_so(leaked: FakeWorld) -> None:
    place, lines = place_of(leaked)
    retry_leaked(place)
    assert "LEAKED" in lines[0] and "pod-1" in lines[0] and "$0.500 an hour" in lines[0]
    assert "still LEAKED" in lines[-1]
    assert leaked.pods.terminated and leaked.journal().read(RUN).phase is Phase.LEAKED


def test_what_went_at_last_is_told_and_forgotten(leaked: FakeWorld) -> None:
    leaked.pods.stubborn = False
    place, lines = place_of(leaked)
    assert [note.run_id for note in place.leaks.read()] == [RUN]
    retry_leaked(place)
    assert "LEAKED" in lines[0] and "confirmed gone" in lines[-1]
    assert leaked.pods.existing == {} and not place.leaks.read() and not place.leaks.path.exists()
    place, lines = place_of(leaked)
    retry_leaked(place)
    assert lines == []


def test_nothing_is_downloaded_before_the_commands_own_work(
    leaked: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("fetched")

    leaked.pods.stubborn = False
    record = leaked.journal().read(RUN)
    held = leaked.journal().acquire(RUN)
    attempt = record.attempt(1).model_copy(update={"collected": False})
    leaked.journal().write(held, record.with_attempt(attempt).model_copy(update={"brought": ()}))
    leaked.journal().release(held)
    monkeypatch.setattr(leaked.home, "fetch", fetch)
    place, lines = place_of(leaked)
    retry_leaked(place)
    assert f"retrain attach {RUN}" in lines[-1] and leaked.pods.existing == {}


def test_another_launcher_at_work_is_no_proof_and_no_wait(leaked: FakeWorld) -> None:
    leaked.journal("elsewhere").acquire(RUN)
    place, lines = place_of(leaked)
    before = leaked.clock.slept
    retry_leaked(place)
    assert "still LEAKED: another launcher works on" in lines[-1] and leaked.clock.slept == before


def test_a_provider_that_hangs_costs_a_command_a_moment(
    leaked: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def hangs(name: str) -> Sequence[Pod]:
        released.wait()
        return []

    monkeypatch.setattr(leaks, "RETRY_SECONDS", 0.3)
    monkeypatch.setattr(leaked.pods, "find", hangs)
    place, lines = place_of(leaked)
    place = replace(place, world=replace(place.world, clock=SystemClock()))
    began = time.monotonic()
    try:
        retry_leaked(place)
    finally:
        released.set()
    assert time.monotonic() - began < 30
    assert "still LEAKED" in lines[-1] and leaked.journal().read(RUN).phase is Phase.LEAKED


def test_many_leaks_together_have_one_allowance(fake: FakeWorld) -> None:
    hurried = Hurried(fake.pods, fake.clock, seconds=20)
    assert hurried.list() == []
    fake.clock.slept += 20
    with pytest.raises(PodError, match="not asked any more"):
        hurried.terminate("pod-1")
    assert fake.pods.terminated == []


def test_what_the_provider_said_in_time_is_passed_on(fake: FakeWorld) -> None:
    hurried = Hurried(fake.pods, fake.clock, seconds=20)
    assert (hurried.provider, hurried.place, hurried.now()) == ("process", "", fake.store.at)
    assert hurried.offers() and hurried.find("x") == [] and hurried.get("x") is None
    assert hurried.logs("x") == [] and hurried.boot_log("x") == ""
    fake.pods.silent = True
    with pytest.raises(PodError, match="does not answer"):
        hurried.list()


def test_the_pods_of_another_provider_are_not_judged_from_here(leaked: FakeWorld) -> None:
    """They look absent from here, which must not pass for a proof."""
    leaked.pods.provider = "docker"
    leaked.pods.existing.clear()
    place, lines = place_of(leaked)
    retry_leaked(place)
    assert "still LEAKED" in lines[-1] and "of provider process" in lines[-1]
    with pytest.raises(UsageError, match="of provider process"):
        leaked.loop().once(RUN)
    assert leaked.journal().read(RUN).phase is Phase.LEAKED


def test_a_leak_noted_here_whose_record_is_elsewhere_is_shown(fake: FakeWorld) -> None:
    place, lines = place_of(fake)
    place.leaks.note("run-9", lost("run-9"), fake.pods)
    retry_leaked(place)
    assert "pod abc" in lines[0] and str(place.leaks.path) in lines[0] and "reap --yes" in lines[0]
    assert [note.run_id for note in place.leaks.read()] == ["run-9"]


def test_what_no_record_knows_of_is_forgotten_by_no_record(fake: FakeWorld) -> None:
    """The run of a pod that came too late is closed, and all that its record names is gone."""
    record = fake.run()
    assert record.phase.closed and record.all_gone
    place, lines = place_of(fake)
    place.leaks.note(RUN, lost(RUN, on_record=False), fake.pods)
    place.leaks.note(RUN, lost(RUN, "def"), fake.pods)
    retry_leaked(place)
    assert follow(place, RUN, as_json=False) == Exit.DONE
    assert [note.pod_id for note in place.leaks.read()] == ["abc"]
    assert "retrain reconcile" not in lines[0]  # it knows nothing of that pod


def test_a_leak_that_could_not_be_recorded_is_noted_until_the_pod_is_gone(fake: FakeWorld) -> None:
    fake.pods.job_options = [{"boot_ticks": 10_000}]
    fake.start(max_seconds=300)

    def silence() -> None:
        fake.store.fail(10**9)
        fake.pods.silent = True

    fake.clock.disturb[4] = silence
    place, _ = place_of(fake)
    with pytest.raises(Leaked):
        follow(place, RUN, as_json=False)
    fake.store.fail(0)
    place, lines = place_of(fake)
    retry_leaked(place)
    assert "LEAKED" in lines[0] and "pod-1" in lines[0]
    fake.pods.silent = False
    assert follow(place, RUN, as_json=False) != Exit.LEAKED and not place.leaks.read()


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"run-1": 3}', "[3]", '[{"run_id": "run-1"}]'])
def test_a_damaged_note_keeps_no_command_from_its_work(tmp_path: Path, content: str) -> None:
    (tmp_path / "leaked.json").write_text(content)
    notes = Notes()
    show_noted_leaks(notes, tmp_path)
    assert notes.lines == []


@pytest.mark.parametrize("arguments", [["init"], ["check", "."], ["pack", ".", "-o", "x.zip"], ["doctor"]])
def test_commands_that_ask_nobody_show_what_is_noted_first(
    fake: FakeWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRAIN_RUN__WORKSPACE", "elsewhere")
    monkeypatch.setenv("RETRAIN_STORAGE__BUCKET", "nowhere")
    monkeypatch.setenv("RETRAIN_STORAGE__ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RETRAIN_STORAGE__ACCESS_KEY", "a")
    monkeypatch.setenv("RETRAIN_STORAGE__SECRET_KEY", "b")
    LeakNotes(Path("elsewhere")).note(RUN, lost(RUN), fake.pods)
    root.execute(arguments)
    assert str(lost(RUN)) in capsys.readouterr().err.splitlines()[0]
