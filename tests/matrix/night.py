"""One run at the simulated RunPod, on a fake clock: launchers that may be killed, pods, the other layers."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from launcher.ending.reaper import Reaper
from launcher.ending.watchdog import Watchdog
from launcher.errors import RetrainError
from launcher.journal import Journal
from launcher.ports import Clock
from tests.crash.faults import SECONDS, Schedule, Strike
from tests.crash.faults import Fault as Blow
from tests.crash.launchers import Killed
from tests.crash.promises import Witness
from tests.fakes.store import FakeStore
from tests.launcher.world import RUN, FakeWorld
from tests.matrix.faults import Fault
from tests.matrix.judge import Judge
from tests.matrix.launchers import DISK_GB, Launcher, runpod
from tests.matrix.layers import ALL, Beside, Layer
from tests.matrix.pods import MainProcess, Truth
from tests.simulators.runpod import Scripted, Simulator
from tests.simulators.runpod.pod import Pod, Workload

CAP_DOLLARS = 0.1
"""About twelve minutes of an A40."""
RESERVE_SECONDS = 60.0
CREATE_LAG_SECONDS = 20.0
"""As the record of the run has it."""
LEASE_SECONDS = 20.0
"""Shorter than the reserve, so that a launcher that comes back is in time."""
SLICE_SECONDS = 5.0
"""Pods work once in so long."""
LONG_SLICE_SECONDS = 10.0
"""Where nobody looks for long."""
RETURNS_SECONDS = 30.0
"""After which somebody looks again at a run that a launcher gave back."""
REAP_SECONDS = 15.0
"""Between two passes of cron: shorter than the reserve, too."""
LOOKS_MAX = 400
LEAK_SECONDS = 450.0
"""Longer than one gap between two passes adds to any clock, as by default."""
LEFT_ALONE_SECONDS = 1200.0
"""Past the deadline of every pod."""
LATER_SECONDS = 600.0
AWAY = (1, 3, 5)
"""For how long nobody looks: indices into SECONDS; at once, longer than the lease, past every deadline."""
REAP_WAITS_SECONDS = 5.0
"""For the proof of an end."""
STRANGERS = ("gpu-box", "retrain-notes", "retrain-other-run-1-1-1767225601")
"""Nobody's of ours: one of them has a name like ours, in another namespace and past its deadline."""


class Night:
    """Plays one run. What is set before `play` is what goes wrong in it."""

    def __init__(
        self, folder: Path, fault: Fault, *, layers: frozenset[Layer] = ALL, away: int = AWAY[0]
    ) -> None:
        """`away`: for how long nobody comes after the first launcher died, an index into SECONDS."""
        world = FakeWorld(folder)
        self.fault = fault
        self.cap = CAP_DOLLARS
        self.store: FakeStore = world.store
        self.home, self.notes = world.home, world.notes
        self.layers = layers
        self.gpus: tuple[str, ...] = ("NVIDIA A40", "NVIDIA RTX A6000")
        self.data_centers: tuple[str, ...] = ()
        self.balance_is_unreadable = False
        self.job_options: list[dict[str, Any]] = []
        """For each pod in turn: options of its job."""
        self.seconds = 0.0
        self.cloud: Simulator = Simulator(lambda: self.store.at, workload=self._workload)
        self.pods = Truth(self.cloud)
        self.away_seconds = SECONDS[away]
        self.alone_seconds: float = self.away_seconds
        """For how long no launcher looks."""
        if Layer.LOOP not in layers:
            self.alone_seconds += LEFT_ALONE_SECONDS
        alone = next(size for size, seconds in enumerate(SECONDS) if seconds >= self.alone_seconds)
        strikes = (Strike(0, Blow.KILL_AFTER, alone), *(Strike(0, blow, 0) for blow in sorted(fault.blows)))
        schedule = Schedule(strikes, CAP_DOLLARS, self_ending=Layer.JOB in self.in_reach)
        self.witness = Witness(self, schedule)
        self.judge = Judge(self)
        self._due: list[tuple[Callable[[], bool], Callable[[], object]]] = []
        self._start(world)
        self._beside = self._processes()
        fault.arrange(self)

    @property
    def in_reach(self) -> frozenset[Layer]:
        """Layers that are on and can end a pod within the reserve."""
        late = {Layer.LOOP} if self.away_seconds >= RESERVE_SECONDS - LEASE_SECONDS else set()
        return self.layers - self.fault.cuts_off - late

    def _start(self, world: FakeWorld) -> None:
        """Write the run's record, as a launcher that died after staging."""
        record = world.record(cap_dollars=CAP_DOLLARS, reserve_seconds=RESERVE_SECONDS)
        clocks = record.spec.clocks.model_copy(
            update={"lease_seconds": LEASE_SECONDS, "leak_seconds": LEAK_SECONDS}
        )
        spec = record.spec.model_copy(
            update={
                "provider": "runpod",
                "paid": True,
                "image": "registry/retrain:1",
                "disk_gb": DISK_GB,
                "clocks": clocks,
            }
        )
        journal = world.journal()
        journal.release(journal.create(record.model_copy(update={"spec": spec})))
        for name in STRANGERS:
            self.cloud.add_stranger(name)

    def _workload(self, pod: Pod) -> Workload:
        options = self.job_options.pop(0) if self.job_options else {}
        main = MainProcess(self, pod, options)
        self.pods.ever[pod.pod_id] = main.job
        return Scripted(main.step)

    # What may go wrong beside the simulator's own knobs.

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Let something happen so long after the run began."""
        self._due.append((lambda: self.seconds >= seconds, action))

    def when_up(self, seconds: float, action: Callable[[], object]) -> None:
        """Let something happen so long after the first container came up."""

        def is_due() -> bool:
            started = [pod.started_at for pod in self.cloud.existing if pod.up_since]
            return any(at and self.store.at >= at + timedelta(seconds=seconds) for at in started)

        self._due.append((is_due, action))

    def when_known(self, action: Callable[[], object]) -> None:
        """Let something happen once a pod's id is on record."""

        def is_due() -> bool:
            last = Journal(self.store, "nobody").read(RUN).last
            return last is not None and bool(last.pod_ids)

        self._due.append((is_due, action))

    def cancel(self) -> None:
        """Let somebody on another machine cancel the run."""
        Journal(self.store, "elsewhere").request_cancel(RUN)
        self.witness.cancelled = True

    def _mend(self) -> None:
        """Let a person set right what does not pass by itself."""
        self.cloud.faults.answers.clear()
        for pod in self.cloud.existing:
            pod.locked = False

    # Time.

    def pass_time(self, seconds: float) -> None:
        """Let the world go on."""
        slices = max(1, round(seconds / (SLICE_SECONDS if seconds < RESERVE_SECONDS else LONG_SLICE_SECONDS)))
        for _ in range(slices):
            self.store.advance(seconds / slices)
            self.seconds += seconds / slices
            for item in [item for item in self._due if item[0]()]:
                self._due.remove(item)
                item[1]()
            self.cloud.tick()
            for process in self._beside:
                process.go_on()

    # The run.

    @property
    def points(self) -> list[str]:
        """Every point that the first launcher passed: where it could have been killed."""
        return self._first.passed

    def play(self, *, dies_at: int | None = None) -> None:
        """Play the run, with a first launcher that dies at one of its points."""
        self._first = Launcher(self, 1, dies_at=dies_at)
        try:
            self._drive(self._first)
        finally:
            for process in self._beside:
                process.close()
            self.cloud.close()

    def _drive(self, launcher: Launcher) -> None:
        for number in range(2, LOOKS_MAX):
            try:
                record = launcher.loop.drive(RUN)
            except Killed:
                self.pass_time(self.away_seconds)
                if Layer.LOOP not in self.layers:
                    self._leave_alone()
            except RetrainError as error:
                self.witness.said(f"{error} {error.next_step}")
                self.pass_time(RETURNS_SECONDS)
            else:
                if record.phase.closed:
                    self.judge.closed(record)
                    return
                self.judge.leaked(record)
                # Later commands try again: soon at first, then now and then.
                self.pass_time(RETURNS_SECONDS if self.judge.told_leaked < 3 else LATER_SECONDS)
                if self.fault.for_good and self.judge.told_leaked >= 3:
                    self._mend()
            launcher = Launcher(self, number)
        raise AssertionError(f"{LOOKS_MAX} launchers did not bring the run to its end")

    def _leave_alone(self) -> None:
        """Let the other layers do their work until every pod's time is over, and look what they left."""
        self.pass_time(LEFT_ALONE_SECONDS)
        self.judge.left_alone()

    def _processes(self) -> list[Beside]:
        work: dict[Layer, Callable[[Clock], object]] = {Layer.WATCHDOG: self._watch, Layer.REAP: self._reap}
        return [Beside(layer, lambda: self.seconds, work[layer]) for layer in work if layer in self.layers]

    def _watch(self, clock: Clock) -> None:
        until = self.store.at + timedelta(hours=1)
        reaper = self._reaper(clock, RUN)
        Watchdog(reaper, clock, self.notes, run_id=RUN, until=until, started_at=self.store.at).watch()

    def _reap(self, clock: Clock) -> None:
        while True:
            try:
                reaper = self._reaper(clock, None)
                reaper.end(reaper.look().due, seconds=REAP_WAITS_SECONDS)
            except RetrainError as error:
                self.notes.say(str(error))
            clock.sleep(REAP_SECONDS)

    def _reaper(self, clock: Clock, run_id: str | None) -> Reaper:
        return Reaper(
            runpod(self, clock),
            clock,
            self.notes,
            namespace="default",
            run_id=run_id,
            create_lag=timedelta(seconds=CREATE_LAG_SECONDS),
            store=lambda: nullcontext(self.store),
        )
