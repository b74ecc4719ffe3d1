"""Leaving, coming back, cancelling, losing a disk, as people do it: real launchers, real pods, a terminal.

The pods train by script (`tests.crash.kills_trainer`), so that a run takes seconds and its files prove
themselves.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from launcher.errors import RetrainError
from launcher.model import Phase, RunRecord
from tests.crash.kills import ROOT, SAVED, Command, Site, expected_checkpoint, kill, sha256, until
from tests.end_to_end.terminal import Terminal

pytestmark = pytest.mark.slow

LONG = ("--max-epochs", "600", "--save-every", "20")
"""Nobody waits for the end of this one: it is cancelled."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("people"))
    yield made
    made.close()


class Night:
    """One run of a person, by its name."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.models = site.folder / "models"
        self.terminals: list[Terminal] = []

    def begin(self, *flags: str) -> Command:
        return self.site.start("run", "--json", "--output-name", self.name, *flags)

    def begin_in_a_terminal(self, *flags: str, deaf_to_hangup: bool = False) -> Terminal:
        self.terminals.append(
            Terminal(
                self.site.argv("run", "--output-name", self.name, *flags),
                cwd=self.site.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                deaf_to_hangup=deaf_to_hangup,
            )
        )
        return self.terminals[-1]

    def record(self) -> RunRecord | None:
        with suppress(RetrainError):
            return self.site.record(self.name)
        return None

    @property
    def run_id(self) -> str:
        record = self.record()
        assert record is not None
        return record.run_id

    def until_a_checkpoint_is_home(self) -> None:
        until(lambda: list(self.models.glob(f"{self.name}-*.safetensors")), "a checkpoint at home")

    def is_alive(self) -> bool:
        return bool(self.site.jobs(self.run_id))

    def is_free(self) -> bool:
        """Whether no launcher holds the run: another machine need not wait for a lease to run out."""
        record = self.record()
        return record is not None and record.lease is None

    def cancel(self) -> None:
        assert self.site.run("cancel", self.run_id).wait() == 9
        assert self.site.processes(self.run_id) == []

    def assert_whole(self, attempts: int = 1) -> None:
        record = self.record()
        assert record is not None and record.phase is Phase.DONE
        assert len(record.attempts) == attempts and record.all_gone
        assert self.site.processes(record.run_id) == []
        for epoch in SAVED:
            path = self.models / f"{self.name}-{epoch:06d}.safetensors"
            assert sha256(path) == expected_checkpoint(epoch), path
        assert not list(self.site.folder.glob(".retrain/crash-*"))


@pytest.fixture
def night(site: Site, request: pytest.FixtureRequest) -> Iterator[Night]:
    made = Night(
        site, request.node.name.removeprefix("test_").translate(str.maketrans("[] ", "---")).strip("-")
    )
    yield made
    for terminal in made.terminals:
        if not terminal.ended():
            os.kill(terminal.pid, signal.SIGKILL)
            terminal.wait()
    if (record := made.record()) is not None:
        kill(site.processes(record.run_id))


# Leaving


@pytest.mark.parametrize("keys", [b"\x03", b"\x03\x03\x03"], ids=["once", "often"])
def test_ctrl_c_leaves_the_run_alone(night: Night, keys: bytes) -> None:
    terminal = night.begin_in_a_terminal(*LONG)
    night.until_a_checkpoint_is_home()
    terminal.press(keys)
    assert terminal.wait() == 130
    assert "Traceback" not in terminal.shown
    if keys == b"\x03":
        assert f"retrain attach {night.run_id}" in terminal.shown.replace("\r\n", "")
        assert f"retrain cancel {night.run_id}" in terminal.shown.replace("\r\n", "")
        assert night.is_free()
    assert night.is_alive()
    night.cancel()


def test_ctrl_c_before_anything_is_on_record_starts_nothing(night: Night) -> None:
    terminal = night.begin_in_a_terminal(*LONG)
    until(lambda: "checked" in terminal.shown, "the data set's check")
    terminal.press(b"\x03")
    assert terminal.wait() == 130
    assert "Traceback" not in terminal.shown and "retrain status" in terminal.shown
    record = night.record()
    if record is not None:
        # The key came late: what is on record is there to be taken up or cancelled.
        night.cancel()


def test_a_closed_terminal_leaves_the_run_alone(night: Night) -> None:
    terminal = night.begin_in_a_terminal(*LONG)
    night.until_a_checkpoint_is_home()
    terminal.close()
    until(terminal.ended, "the end of the launcher")
    assert terminal.code == 128 + signal.SIGHUP
    assert night.is_free() and night.is_alive()
    night.cancel()


def test_who_ignores_the_hangup_sees_the_run_to_its_end(night: Night) -> None:
    """As under nohup, but with the terminal still for output: every write fails from then on."""
    terminal = night.begin_in_a_terminal(deaf_to_hangup=True)
    until(lambda: "on record" in terminal.shown, "the record")
    terminal.close()
    until(terminal.ended, "the end of the launcher")
    assert terminal.code == 128 + signal.SIGPIPE
    night.assert_whole()


def test_sigterm_leaves_the_run_alone(night: Night) -> None:
    launcher = night.begin(*LONG)
    night.until_a_checkpoint_is_home()
    launcher.process.terminate()
    assert launcher.wait() == 128 + signal.SIGTERM
    assert f"retrain attach {night.run_id}" in launcher.said()
    assert night.is_free() and night.is_alive()
    night.cancel()


# Sleeping


def test_a_launcher_that_slept_past_its_lease_goes_on(night: Night) -> None:
    launcher = night.begin("--set", "clocks.lease=0.5")
    until(lambda: (record := night.record()) and record.attempts, "an attempt")
    launcher.process.send_signal(signal.SIGSTOP)
    until(lambda: _lease_is_over(night), "the end of the lease")
    launcher.process.send_signal(signal.SIGCONT)
    assert launcher.wait() == 0, launcher.said()
    night.assert_whole()


def test_who_wakes_late_leaves_the_run_to_who_took_over(night: Night) -> None:
    sleeper = night.begin("--set", "clocks.lease=0.5", "--max-epochs", "12", "--save-every", "2")
    night.until_a_checkpoint_is_home()
    sleeper.process.send_signal(signal.SIGSTOP)
    until(lambda: _lease_is_over(night), "the end of the lease")
    other = night.site.start("attach", night.run_id, "--json")
    until(lambda: _holder(night) == other.process.pid or other.ended(), "the other's lease")
    sleeper.process.send_signal(signal.SIGCONT)
    assert other.wait() == 0, other.said()
    assert sleeper.wait() == 0, sleeper.said()
    night.assert_whole()


def test_a_machine_that_slept_goes_on_where_it_was(night: Night) -> None:
    """Launcher and pod stop for longer than the lease: nobody is taken for dead."""
    launcher = night.begin("--set", "clocks.lease=0.5", "--max-epochs", "12", "--save-every", "2")
    night.until_a_checkpoint_is_home()
    asleep = [launcher.process.pid, *(process.pid for process in night.site.processes(night.run_id))]
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: _lease_is_over(night), "the end of the lease")
    for pid in reversed(asleep):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert launcher.wait() == 0, launcher.said()
    night.assert_whole()


def _lease_is_over(night: Night) -> bool:
    record = night.record()
    return bool(record and record.lease and record.lease.until < night.site.store().now())


def _holder(night: Night) -> int | None:
    record = night.record()
    if record is None or record.lease is None:
        return None
    return int(record.lease.holder.partition('"pid": ')[2].partition(",")[0])


# Cancelling


@pytest.mark.parametrize("host", ["", "elsewhere"], ids=["here", "elsewhere"])
def test_a_cancel_beside_a_launcher_waits_for_the_proof(night: Night, host: str) -> None:
    launcher = night.begin(*LONG)
    night.until_a_checkpoint_is_home()
    other = night.site.run("cancel", night.run_id, "--json", host=host)
    assert other.wait() == 9 and "ends it on its next pass" in other.said(), other.said()
    assert other.result()["teardown"]["confirmed"]
    assert night.site.processes(night.run_id) == []
    assert launcher.wait() == 9


def test_a_cancel_from_where_the_pod_cannot_be_ended_says_so(night: Night) -> None:
    launcher = night.begin(*LONG)
    night.until_a_checkpoint_is_home()
    launcher.process.terminate()
    launcher.wait()
    other = night.site.run("cancel", night.run_id, host="elsewhere")
    assert other.wait() == 2 and "another machine" in other.said() and "on record" in other.said()
    assert night.is_alive()
    # The wish is on record: whoever attaches where the pod is carries it out.
    assert night.site.run("attach", night.run_id).wait() == 9
    assert night.site.processes(night.run_id) == []


# Asking


def test_status_where_nothing_ever_ran_starts_nothing(tmp_path: Path) -> None:
    for arguments, code, words in (
        (["status"], 0, "no runs\n"),
        (["status", "--json"], 0, "[]\n"),
        (["reconcile"], 0, "no runs\n"),
        (["attach"], 2, ""),
        (["cancel", "x"], 2, ""),
    ):
        done = subprocess.run(
            [sys.executable, "-c", "from launcher.cli.root import main; main()", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (code, words), done.stderr
        assert code == 0 or "there is no run" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_of_the_name_is_refused_and_harms_nothing(night: Night) -> None:
    first = night.begin("--max-epochs", "12", "--save-every", "2")
    night.until_a_checkpoint_is_home()
    second = night.begin()
    assert second.wait() == 2 and "still open" in second.said() and "retrain attach" in second.said()
    assert first.wait() == 0, first.said()
    night.assert_whole()


# Losing the disk


def test_a_folder_deleted_half_way_is_filled_again(night: Night) -> None:
    launcher = night.begin()
    night.until_a_checkpoint_is_home()
    shutil.rmtree(night.models, ignore_errors=True)
    assert launcher.wait() == 0, launcher.said()
    night.assert_whole()


def _assert_waits_for_a_disk(night: Night, launcher: Command) -> None:
    assert launcher.wait() == 6, launcher.said()
    said = launcher.said()
    assert "every pod is gone" in said and str(night.models) in said and "retrain attach" in said, said
    record = night.record()
    assert record is not None and record.phase is Phase.COLLECTING and not record.missing
    assert night.site.processes(record.run_id) == []


def _put_in_the_way(folder: Path) -> bool:
    """Put a file in a folder's place; false when its user was quicker to make the folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.write_text("in the way")
    except IsADirectoryError:
        return False
    return True


def test_a_file_in_the_folders_place(night: Night) -> None:
    launcher = night.begin()
    night.until_a_checkpoint_is_home()
    until(lambda: _put_in_the_way(night.models), "a file in the folder's place")
    _assert_waits_for_a_disk(night, launcher)
    night.models.unlink()
    assert night.site.run("attach", night.run_id).wait() == 0
    night.assert_whole()


@pytest.fixture
def disk(site: Site) -> Iterator[Path]:
    """A disk of its own for the results; only root may make one."""
    models = site.folder / "models"
    models.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(models)], capture_output=True).returncode:
        pytest.skip("no right to mount a disk here")
    yield models
    subprocess.run(["umount", "--lazy", str(models)], capture_output=True)


def test_a_disk_that_becomes_read_only(night: Night, disk: Path) -> None:
    launcher = night.begin()
    night.until_a_checkpoint_is_home()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    _assert_waits_for_a_disk(night, launcher)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert night.site.run("attach", night.run_id).wait() == 0
    night.assert_whole()


def test_a_disk_that_is_unplugged(night: Night, disk: Path) -> None:
    """Below the mount point an empty folder is left: everything comes home again, into that."""
    launcher = night.begin()
    night.until_a_checkpoint_is_home()
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
    assert launcher.wait() == 0, launcher.said()
    night.assert_whole()
