"""Where a schedule is played: a world of fakes, launchers in it, and the faults that strike their calls."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from job.contract import keys
from launcher.errors import PodError, RetrainError, StorageError
from launcher.model import RunRecord
from launcher.roster import Roster
from tests.crash.faults import LAG_SECONDS, Fault, Schedule, Strike
from tests.crash.launchers import Killed, Launcher
from tests.crash.promises import Witness
from tests.launcher.world import RUN, FakeWorld

LAUNCHERS_MAX = 300
SLEEPS_MAX = 20_000
SLICES_MAX = 40
"""Pieces into which a stretch of time is cut; between two of them pods work."""
NESTED_MAX = 2
SILENCE_SECONDS = 18.0
"""A few heartbeats: shorter than a run."""
LOST_MAX = 8
"""Answers lost in a row: each costs a launcher."""
STUBBORN_MAX = 900.0
"""Seconds: longer than it takes to call a pod leaked."""
_WRITES = frozenset({"put", "delete", "upload"})


class Stage:
    """Plays one schedule against a run and keeps count of effects."""

    def __init__(self, folder: Path, schedule: Schedule) -> None:
        self.fake = FakeWorld(folder, silence_seconds=SILENCE_SECONDS)
        self.fake.store.chunk_bytes = 16
        self.fake.pods.self_ending = schedule.self_ending
        self.schedule = schedule
        self.witness = Witness(self.fake, schedule)
        self.awake_seconds = 0.0
        self._due = list(schedule.strikes)
        self._wait = self._due[0].gap if self._due else 0
        self._launchers = 0
        self._nested = 0
        self._sleeps = 0
        self._store_failures = self._list_failures = self._lost_answers = self._provider_failures = 0
        self._outage_seconds = 0.0
        self._stubborn_seconds = 0.0
        self._home_is_doomed = False

    def play(self) -> RunRecord:
        """Start the run, then one launcher after the other until it is closed; return the last record."""
        self.fake.start(cap_dollars=self.schedule.cap_dollars)
        for _ in range(LAUNCHERS_MAX):
            launcher = self._launcher()
            try:
                record = launcher.loop.drive(RUN)
            except (Killed, KeyboardInterrupt):
                self.pass_time(launcher.restart_seconds)
                continue
            except RetrainError as error:
                self.witness.said(f"{error} {error.next_step}")
                self.pass_time(30)
                continue
            if record.phase.closed:
                self.witness.at_end(record)
                return record
            self.pass_time(30)
        raise AssertionError(f"{LAUNCHERS_MAX} launchers did not bring the run to its end")

    def pass_time(self, seconds: float, *, awake: bool = True) -> None:
        """Let the world go on; `awake` says whether the laptop's monotonic clock does, too."""
        self._sleeps += 1
        assert self._sleeps < SLEEPS_MAX, "the loop does not end"
        slices = max(1, min(SLICES_MAX, int(seconds / 5)))
        for _ in range(slices):
            self.fake.store.advance(seconds / slices)
            self._outage_seconds -= seconds / slices
            self.fake.pods.cut_off = self._outage_seconds > 0
            self.fake.pods.tick()
        self._stubborn_seconds -= seconds
        self.fake.pods.stubborn = self._stubborn_seconds > 0
        if awake:
            self.awake_seconds += seconds

    def strike(self, launcher: Launcher) -> bool:
        """Let what is due happen; True when the launcher dies right after this effect."""
        dies_after = False
        while self._due and self._wait <= 0:
            strike = self._due.pop(0)
            self._wait = self._due[0].gap if self._due else 0
            if strike.fault is Fault.KILL_AFTER:
                dies_after = True
                launcher.restart_seconds = strike.seconds
            else:
                self._happen(strike, launcher)
        self._wait -= 1
        return dies_after

    def between_passes(self, seconds: float) -> None:
        """Let a launcher sleep. In the middle of a pass nobody could tell a folder deleted before its last
        look from one deleted after.
        """
        if self._home_is_doomed:
            self._home_is_doomed = False
            # What is deleted after the run was closed is no affair of ours.
            if not self.fake.journal().read(RUN).phase.closed:
                shutil.rmtree(self.fake.home.models_dir, ignore_errors=True)
        self.pass_time(seconds)

    def carry_out(
        self, who: str, side: str, name: str, call: Callable[[], Any], arguments: tuple[Any, ...]
    ) -> Any:
        """Make the call, unless its side does not answer just now."""
        if side == "store" and self._outage_seconds > 0:
            raise StorageError("the store cannot be reached")
        if side == "store" and self._store_failures:
            self._store_failures -= 1
            raise StorageError("the store does not answer")
        if (side, name) == ("store", "list") and self._list_failures:
            self._list_failures -= 1
            raise StorageError("the store lists nothing")
        if side == "provider" and self._provider_failures:
            self._provider_failures -= 1
            raise PodError("the provider does not answer")
        with self.witness.watching(who, name, arguments):
            result = call()
        if side == "store" and name in _WRITES and self._lost_answers:
            self._lost_answers -= 1
            raise StorageError("the store took it, and its answer was lost")
        return result

    def _launcher(self) -> Launcher:
        self._launchers += 1
        return Launcher(self, self._launchers)

    def _happen(self, strike: Strike, launcher: Launcher) -> None:
        pods, store = self.fake.pods, self.fake.store
        match strike.fault:
            case Fault.KILL_BEFORE:
                launcher.dead, launcher.restart_seconds = True, strike.seconds
            case Fault.INTERRUPTED:
                launcher.restart_seconds = strike.seconds
                raise KeyboardInterrupt
            case Fault.OVERTAKEN:
                self._overtake(strike)
            case Fault.NAP:
                self.pass_time(strike.seconds, awake=False)
            case Fault.STORE_DOWN:
                self._store_failures = strike.count
            case Fault.LISTS_FAIL:
                self._list_failures = strike.count
            case Fault.OUTAGE:
                self._outage_seconds = min(strike.seconds, STUBBORN_MAX)
                pods.cut_off = True
            case Fault.STORE_LOST:
                self._lost_answers = min(strike.count, LOST_MAX)
            case Fault.DOWNLOAD_BREAKS:
                store.break_downloads(strike.count, after=20)
            case Fault.PROVIDER_DOWN:
                self._provider_failures = strike.count
            case Fault.PROVIDER_LAGS:
                pods.list_lag_seconds = min(strike.seconds, LAG_SECONDS)
            case Fault.PROVIDER_FORGETS:
                self._forget(min(strike.seconds, STUBBORN_MAX))
            case Fault.CREATE_LOST:
                pods.create_loses_answer = True
            case Fault.CREATE_LATE:
                pods.create_arrives_late = min(strike.seconds, LAG_SECONDS)
            case Fault.CREATE_TWICE:
                pods.create_twice = True
            case Fault.PRICE_RISES:
                pods.next_price = pods.price * 2
            case Fault.STUBBORN:
                self._stubborn_seconds, pods.stubborn = min(strike.seconds, STUBBORN_MAX), True
            case Fault.ENDS_LATE:
                pods.ends_late_seconds = min(strike.seconds, STUBBORN_MAX)
            case Fault.CANCEL:
                self.fake.journal("elsewhere").request_cancel(RUN)
                self.witness.cancelled = True
            case Fault.REPLAY:
                store.deliver_again(keys.attempt_prefix(RUN, len(pods.created)), strike.count)
            case Fault.TAMPER:
                self._tamper()
            case Fault.HOME_DELETED:
                self._home_is_doomed = True
            case _:
                self._harm_a_pod(strike)

    def _harm_a_pod(self, strike: Strike) -> None:
        """Strike the newest pod, if there is one."""
        pods = self.fake.pods
        if not pods.jobs:
            return
        pod_id = list(pods.jobs)[-1]
        match strike.fault:
            case Fault.POD_VANISHES:
                pods.vanish(pod_id)
            case Fault.ZOMBIE:
                pods.vanish(pod_id, works_on=True)
            case Fault.POD_ENDS:
                pods.container_ends(pod_id)
            case Fault.POD_RESTARTS:
                pods.jobs[pod_id].restart()
            case Fault.POD_TORN:
                pods.jobs[pod_id].tear_after = strike.size
            case Fault.POD_HANGS:
                pods.jobs[pod_id].hangs = True
            case _:
                raise AssertionError(strike.fault)

    def _forget(self, seconds: float) -> None:
        """Hide the pods that are on record: of one that no list ever showed nobody can know."""
        until = self.fake.store.at + timedelta(seconds=seconds)
        for attempt in self.fake.journal().read(RUN).attempts:
            self.fake.pods.hidden_until |= dict.fromkeys(attempt.pod_ids, until)

    def _overtake(self, strike: Strike) -> None:
        if self._nested >= NESTED_MAX:
            return
        self._nested += 1
        other = self._launcher()
        # Its first pass goes by a list as old as that: one of many runs, it may have waited for its turn.
        old = Roster(other.pods, self.fake.store.now())
        self._take(old)
        self.pass_time(strike.seconds)
        for roster in (old, None, None):
            try:
                other.loop.once(RUN, roster)
            except (Killed, KeyboardInterrupt):
                break
            except RetrainError as error:
                self.witness.said(f"{error} {error.next_step}")
            self.pass_time(5)
        self._nested -= 1

    def _take(self, roster: Roster) -> None:
        """Let a roster ask for its list now, which may be struck as any other call."""
        for attempt in self.fake.journal().read(RUN).attempts[-1:]:
            with suppress(PodError, Killed, KeyboardInterrupt):
                roster.shown(attempt)

    def _tamper(self) -> None:
        written = self.fake.store.keys()
        found = [key for key in written if "/checkpoints/" in key and key.endswith(".safetensors")]
        if found:
            self.fake.store.corrupt(found[-1])
