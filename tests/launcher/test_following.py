"""Following a run as the commands do, in a world of fakes: exit codes, leaks shown first, picking a run."""

import io
import json

import pytest
from rich.console import Console

from job.contract.events import Booted, Event, Progress
from launcher.cli.follow import follow
from launcher.cli.leaks import retry_leaked
from launcher.cli.narrator import Narrator
from launcher.cli.view import panel, progress_line
from launcher.cli.wiring import Workplace, pick_run
from launcher.errors import UsageError
from launcher.model import Phase, RunRecord, Watch
from launcher.observe import Observer
from launcher.reconcile import Seen
from launcher.report.summary import summary
from launcher.report.text import overview_text
from tests.launcher.world import OUTPUT, RUN, FakeWorld


def place_of(fake: FakeWorld) -> tuple[Workplace, list[str]]:
    narrator = Narrator()
    lines: list[str] = []
    narrator.write = lines.append
    return Workplace(fake.world, fake.journal(), narrator, server=None), lines


def test_the_result_goes_to_stdout_as_one_json_object(
    fake: FakeWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.start()
    place, _ = place_of(fake)
    assert follow(place, RUN, as_json=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["run_id"], result["phase"]) == (RUN, "done")
    assert [item["epoch"] for item in result["checkpoints"]] == [2, 4]


def test_a_leak_is_loud_has_its_exit_code_and_is_tried_again_first(
    fake: FakeWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.start()
    fake.pods.stubborn = True
    place, lines = place_of(fake)
    assert follow(place, RUN, as_json=False) == 8
    assert any("LEAKED" in line and "pod-1" in line and "an hour" in line for line in lines)
    assert "NOT confirmed gone" in capsys.readouterr().out

    place, lines = place_of(fake)
    retry_leaked(place)
    assert "LEAKED" in lines[0] and "pod-1" in lines[0]
    assert fake.pods.existing

    fake.pods.stubborn = False
    for _ in range(4):
        retry_leaked(place)
        fake.later(5)
    assert fake.pods.existing == {}
    assert fake.journal().read(RUN).phase is not Phase.LEAKED


def test_ctrl_c_detaches_and_the_lease_is_free_at_once(fake: FakeWorld) -> None:
    fake.start()

    def interrupt() -> None:
        raise KeyboardInterrupt

    fake.clock.disturb[3] = interrupt
    place, lines = place_of(fake)
    assert follow(place, RUN, as_json=False) == 130
    assert f"retrain attach {RUN}" in lines[-1] and f"retrain cancel {RUN}" in lines[-1]
    assert fake.pods.existing  # the pod works on
    fake.journal("launcher-2").acquire(RUN)


def test_a_failed_training_has_its_exit_code(fake: FakeWorld, capsys: pytest.CaptureFixture[str]) -> None:
    fake.start()
    fake.pods.job_options = [{"fail_at_epoch": 2}]
    place, _ = place_of(fake)
    assert follow(place, RUN, as_json=False) == 5
    assert "nan loss" in capsys.readouterr().out


def test_a_command_means_the_open_run_or_the_one_that_is_named(fake: FakeWorld) -> None:
    place, _ = place_of(fake)
    with pytest.raises(UsageError, match="no run yet"):
        pick_run(place, None)
    fake.start()
    assert pick_run(place, None) == RUN and pick_run(place, "run") == RUN
    other = fake.record().model_copy(update={"run_id": "run-12"})
    spec = other.spec.model_copy(update={"output_name": "others"})
    fake.journal().create(other.model_copy(update={"spec": spec}))
    assert pick_run(place, RUN) == RUN  # a whole id wins over a longer one that begins like it
    with pytest.raises(UsageError, match="more than one run fits"):
        pick_run(place, None)
    with pytest.raises(UsageError, match="no run nowhere"):
        pick_run(place, "nowhere")


def test_a_closed_canary_is_taken_by_its_name_alone_and_labelled(fake: FakeWorld) -> None:
    place, _ = place_of(fake)
    night = fake.record().model_copy(update={"phase": Phase.DONE, "closed_at": fake.store.now()})
    spec = night.spec.model_copy(update={"output_name": "canary-default", "canary": True})
    flown = night.model_copy(update={"run_id": "run-2", "spec": spec})
    fake.journal().create(flown)
    with pytest.raises(UsageError, match="no run yet"):
        pick_run(place, None)
    fake.journal().create(night)
    assert [record.run_id for record in place.journal.records(print)] == [RUN, "run-2"]
    assert pick_run(place, None) == RUN
    assert pick_run(place, "run-2") == "run-2"
    told = overview_text([summary(record, fake.store.now()) for record in (night, flown)])
    assert [("live canary" in line) for line in told.splitlines()] == [False, True]


def test_what_repeats_is_said_once_in_a_while() -> None:
    narrator = Narrator()
    lines: list[str] = []
    narrator.write = lines.append
    for _ in range(5):
        narrator.say("again")
    narrator.say("other")
    assert [line.split(" ", 1)[1] for line in lines] == ["again", "other"]


def test_an_overview_has_a_line_for_each_run(fake: FakeWorld) -> None:
    from launcher.report.summary import summary

    record = fake.run()
    text = overview_text([summary(record, fake.store.now())])
    assert text.count("\n") == 1 and RUN in text and OUTPUT in text and "done" in text
    assert overview_text([]) == "no runs\n"


@pytest.mark.parametrize("speed", [1e-300, 1e300, 0.0, -1.0, 2.5])
def test_no_speed_that_a_pod_claims_breaks_the_view(fake: FakeWorld, speed: float) -> None:
    record = fake.run()
    head = {"run_id": RUN, "attempt": 1, "life": 1, "seq": 1, "at": fake.store.at}
    progress = Progress.model_validate(
        {**head, "step": 1, "total_steps": 10, "epoch": 1, "steps_per_second": speed, "losses": [[1, 1e308]]}
    )
    observer = Observer(fake.store, fake.pods, record, events={1: (progress,)})
    seen = Seen(now=fake.store.at)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(panel(record, observer, seen))
    assert OUTPUT in console.export_text()
    assert "step 1/10" in progress_line(record, progress, seen)


def shown(fake: FakeWorld, record: RunRecord, *events: Event) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    observer = Observer(fake.store, fake.pods, record, events={1: events})
    console.print(panel(record, observer, Seen(now=fake.store.now())))
    return console.export_text()


def test_a_pod_that_comes_up_shows_what_its_host_says_and_for_how_long(fake: FakeWorld) -> None:
    fake.start()
    record = fake.loop().once(RUN)
    attempt = record.attempt(1).model_copy(
        update={"boot_log": "layer [/a1] [red]pulled", "offer_location": "SECURE EU-1", "resumed_epoch": 2}
    )
    record = record.with_attempt(attempt).model_copy(update={"phase": Phase.BOOTING})
    fake.clock.sleep(90)
    text = shown(fake, record)
    assert "for 0:01:30: layer [/a1] [red]pulled" in text
    assert "SECURE EU-1 at $0.500 an hour, goes on after epoch 2" in text
    booted = Booted(run_id=RUN, attempt=1, life=1, seq=1, at=fake.store.now(), pod_id="p", version="1")
    assert "the job has begun" in shown(fake, record, booted)


def test_silence_is_shown_with_its_limit(fake: FakeWorld) -> None:
    fake.start()
    record = fake.loop().once(RUN)
    silent = record.attempt(1).model_copy(update={"watch": Watch(silent_seconds=61)})
    assert "for 0:01:01; given up after 0:02:00" in shown(fake, record.with_attempt(silent))
    assert "given up" not in shown(fake, record)
