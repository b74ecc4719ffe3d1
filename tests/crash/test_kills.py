"""Real launchers, jobs, trainers and a real store, killed with SIGKILL at sampled moments.

A case is a sequence of blows. After them a person does what the manual says (`retrain attach`, or `reconcile`
from cron) until the run is closed, and then every promise is checked from the outside. Cases follow from one
seed; RETRAIN_CRASH_SEED sets another.
"""

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from job.contract import keys
from launcher.errors import RetrainError
from launcher.journal import Journal, this_launcher
from launcher.model import Phase, RunRecord
from tests.crash.kills import (
    SAVED,
    SECRET,
    SEED,
    Command,
    Site,
    expected_checkpoint,
    kill,
    sha256,
    until,
)
from tests.crash.tally import TALLY

pytestmark = pytest.mark.slow

CASES = 20
PATIENCE = 30.0
"""Seconds that a moment is waited for; on a busy machine it may pass unseen."""
PODS_KILLED_MAX = 2
"""In one case: a run tries three pods."""

EARLY = ("after a while", "staged", "on record", "asked for a pod")
MIDDLE = (
    "a job runs",
    "claimed",
    "a trainer runs",
    "a checkpoint in the bucket",
    "a state in the bucket",
    "a file on its way home",
    "a checkpoint at home",
    "samples in the bucket",
)
LATE = ("tearing down", "closing")
HARMLESS = ("launcher", "store", "launcher and store")
DEADLY = ("job", "trainer", "launcher and job", "everything")


@dataclass(frozen=True)
class Blow:
    """Who is killed when."""

    moment: str
    victim: str
    seconds: float
    """After the moment was seen."""
    followed: bool
    """Whether a person takes over at once, rather than when all blows have fallen."""

    def __str__(self) -> str:
        return f"{self.moment} +{self.seconds:.2f}s: {self.victim}{'' if self.followed else ', left alone'}"


def sample(seed: int, cases: int) -> list[tuple[Blow, ...]]:
    """Return the blows of each case. Moments and victims are dealt like cards: all come up in twenty."""
    chance = random.Random(seed)
    moments, victims = _deck(chance, EARLY + MIDDLE + MIDDLE + LATE), _deck(chance, HARMLESS + DEADLY)
    dealt = []
    for _ in range(cases):
        order = EARLY + MIDDLE + LATE
        chosen = sorted((next(moments) for _ in range(chance.choice((1, 2, 2, 3)))), key=order.index)
        blows: list[Blow] = []
        for moment in chosen:
            victim = next(victims)
            deadly = sum(blow.victim in DEADLY for blow in blows)
            if victim in DEADLY and (moment not in MIDDLE or deadly >= PODS_KILLED_MAX):
                victim = chance.choice(HARMLESS)
            seconds = chance.uniform(0, 6) if moment == "after a while" else chance.choice((0, 0, 0.05, 0.3))
            blows.append(Blow(moment, victim, seconds, chance.random() < 0.6))
        dealt.append(tuple(blows))
    return dealt


def _deck(chance: random.Random, cards: tuple[str, ...]) -> Iterator[str]:
    while True:
        yield from chance.sample(cards, len(cards))


ALL_CASES = sample(SEED, CASES)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    TALLY.seed = SEED
    made = Site(tmp_path_factory.mktemp("kills"))
    yield made
    made.close()


class Case:
    """One run under its blows."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.launcher: Command = self._run()
        self.run_id: str | None = None
        self.fell: list[str] = []
        """Which blows found somebody."""

    def _run(self) -> Command:
        return self.site.start("run", "--json", "--output-name", self.name)

    # Moments

    def record(self) -> RunRecord | None:
        """Return the run's record if there is one and the store answers."""
        with suppress(RetrainError):
            if self.run_id is not None:
                return Journal(self.site.store(), this_launcher()).read(self.run_id)
            record = self.site.record(self.name)
            self.run_id = record.run_id if record else None
            return record
        return None

    def written(self, pattern: str) -> bool:
        """Whether a pod has written a key like this."""
        with suppress(RetrainError):
            if self.record() and self.run_id:
                return any(re.fullmatch(pattern, key) for key in self.site.written(self.run_id))
        return False

    def has_come(self, moment: str) -> bool:
        """Whether a moment is there, as far as can be seen from the outside."""
        models, run_id = self.site.folder / "models", self.run_id or "-"
        looks: dict[str, Callable[[], object]] = {
            "after a while": lambda: True,
            "staged": lambda: "staged base_model" in self.launcher.said(),
            "on record": lambda: self.record(),
            "asked for a pod": lambda: (record := self.record()) and record.last and record.last.asked_at,
            "a job runs": lambda: self.record() and self.site.jobs(run_id),
            "claimed": lambda: self.written(re.escape(keys.claim(1))),
            "a trainer runs": lambda: self.record() and self.site.trainers(run_id),
            "a checkpoint in the bucket": lambda: self.written(r"checkpoints/.*\.receipt\.json"),
            "a state in the bucket": lambda: self.written(r"state/.*\.receipt\.json"),
            "a file on its way home": lambda: list(models.rglob(f"{self.name}*.part")),
            "a checkpoint at home": lambda: list(models.glob(f"{self.name}-*.safetensors")),
            "samples in the bucket": lambda: self.written(r"samples/.*\.receipt\.json"),
            "tearing down": lambda: (
                (record := self.record()) and record.phase in (Phase.TEARING_DOWN, Phase.COLLECTING)
            ),
            "closing": lambda: (
                (models / f"{self.name}.safetensors").exists() or (models / self.name / "run.json").exists()
            ),
        }
        return bool(looks[moment]())

    def is_over(self) -> bool:
        """Whether the run is closed."""
        record = self.record()
        return record is not None and record.phase.closed

    def is_stuck(self) -> bool:
        """Whether nobody is left who could bring a moment about: a pod alone needs the store for that."""
        working = self.run_id and self.site.store_pid() and self.site.jobs(self.run_id)
        return self.launcher.ended() and not working

    # Blows

    def suffer(self, blow: Blow) -> None:
        """Wait for the moment, strike, and take over if somebody is to."""
        end = time.monotonic() + PATIENCE
        while not self.has_come(blow.moment):
            if self.is_over() or self.is_stuck() or time.monotonic() > end:
                return
            time.sleep(0.02)
        time.sleep(blow.seconds)
        if self.strike(blow.victim):
            self.fell.append(str(blow))
        if not blow.followed:
            return
        if self.launcher.ended() and not self.is_over():
            self.launcher = self.take_over()
        elif "store" in blow.victim:
            self.site.run("status")  # whoever looks brings it back

    def strike(self, victim: str) -> bool:
        """SIGKILL the victims at once; whether there was one."""
        self.record()
        struck = False
        if victim in ("launcher", "launcher and store", "launcher and job", "everything"):
            struck |= not self.launcher.ended()
            with suppress(ProcessLookupError):
                os.kill(self.launcher.process.pid, signal.SIGKILL)
            self.launcher.wait()
        if victim in ("store", "launcher and store", "everything"):
            struck |= self.site.kill_store()
        if self.run_id and victim in ("job", "launcher and job", "everything"):
            struck |= kill(self.site.jobs(self.run_id))
        if self.run_id and victim == "trainer":
            struck |= kill(self.site.trainers(self.run_id))
        return struck

    def take_over(self) -> Command:
        """Do what the manual says: attach, or start again what never came on record."""
        if self.run_id is None:
            self.site.run("status")  # the store may be down
            self.record()
        return self.site.start("attach", self.run_id, "--json") if self.run_id else self._run()

    def settle(self, *, by_cron: bool) -> Command:
        """Bring the run to its end; return the command that did."""
        if self.launcher.ended() and not self.is_over():
            self.launcher = self.take_over()
        if by_cron and self.run_id:
            self.strike("launcher")
            until(self.passed, "the end of the run by passes of `reconcile`")
            self.launcher = self.site.start("attach", self.run_id, "--json")
        if self.launcher.wait() != 0 or not self.launcher.out.read_text():
            self.launcher = self.take_over()
            self.launcher.wait()
        return self.launcher

    def passed(self) -> bool:
        """Make one pass; whether the run is closed after it."""
        self.site.run("reconcile")
        return self.is_over()


@pytest.mark.parametrize("number", range(CASES))
def test_nothing_is_lost_and_nothing_left_over(site: Site, number: int) -> None:
    case = Case(site, f"case-{number:02d}")
    for blow in ALL_CASES[number]:
        case.suffer(blow)
    last = case.settle(by_cron=number % 6 == 3)
    record = case.record()
    what = f"seed {SEED}, case {number}, fell: {case.fell}\n{last.said()}"
    assert record is not None, what
    assert record.phase.closed, what
    receipts = site.receipts(record.run_id)
    named = {(item.attempt, item.key) for item in record.missing}
    lost = [
        receipt.key
        for receipt in receipts
        if sha256(site.home(receipt)) not in {item.sha256 for item in receipts if item.key == receipt.key}
        and (receipt.attempt, receipt.key) not in named
    ]
    left = site.processes(record.run_id)
    TALLY.add(kind="real", cases=1, lost=len(lost), leaked=len({p.environ()["RETRAIN_POD_ID"] for p in left}))
    assert not lost, what
    assert not left, what

    # As many pods as were killed, and not one more; then the run is as if nothing had happened.
    assert (record.phase, last.wait()) == (Phase.DONE, 0), what
    result = last.result()
    assert result["exit_code"] == 0 and result["not_home"] == result["missing"] == [], what
    assert result["teardown"]["confirmed"], what
    for epoch in SAVED:
        path = site.folder / "models" / f"{case.name}-{epoch:06d}.safetensors"
        assert sha256(path) == expected_checkpoint(epoch), (epoch, what)
    assert not Journal(site.store(), this_launcher()).is_open(case.name), what
    assert not list(site.folder.glob("models/**/*.part")), what
    assert not list(site.folder.glob(".retrain/pods/*/scratch/*")), what


def test_no_secret_was_shown_and_nothing_crashed(site: Site) -> None:
    """After all cases: what was printed, and every file outside of the store's own folder."""
    keys_file = (site.store_folder / "server.json").read_text()
    planted = [value.encode() for value in re.findall(r'"(?:secret_key|access_key)": "([^"]+)"', keys_file)]
    assert len(planted) == 2 and len(site.commands) > CASES
    for path in _texts(site):
        text = path.read_bytes()
        assert not SECRET.search(text), path
        assert not any(secret in text for secret in planted), path
        assert b"Traceback" not in text, path
    assert not list(site.folder.glob(".retrain/crash-*"))


def _texts(site: Site) -> Iterator[Path]:
    for path in site.folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and not path.is_relative_to(site.store_folder):
            yield path


def test_the_same_seed_deals_the_same_cases() -> None:
    assert sample(SEED, CASES) == ALL_CASES != sample(SEED + 1, CASES)
    dealt = {blow.moment for blows in ALL_CASES for blow in blows}
    victims = {blow.victim for blows in ALL_CASES for blow in blows}
    assert dealt == set(EARLY + MIDDLE + LATE) and victims == set(HARMLESS + DEADLY)
