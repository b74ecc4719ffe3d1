"""What a night may come to, judged by the simulator: it alone knows which pods there were, at what cost."""

from typing import TYPE_CHECKING

from launcher.errors import Exit
from launcher.model import Phase, RunRecord
from launcher.money.budget import spent_at_most
from launcher.outcome import outcome
from launcher.report.summary import exit_code
from launcher.report.text import leaked_lines
from tests.crash.promises import CLOCK_SECONDS, Broken
from tests.matrix.layers import Layer

if TYPE_CHECKING:
    from tests.matrix.night import Night

MINUTES_PAID = 11
"""How long a pod may work for the cap."""


class Judge:
    """Judges one night whenever somebody says how it stands."""

    def __init__(self, night: "Night") -> None:
        self._night = night
        self.told_leaked = 0
        """How often the run was told to be LEAKED."""
        self.left = 0
        """Pods that the layers left when no launcher came back."""
        self.phase: Phase | None = None

    @property
    def overspent(self) -> float:
        """Return by how much the truth is above the cap, in US dollars."""
        return max(0.0, self._night.cloud.spent() - self._night.cap)

    def closed(self, record: RunRecord) -> None:
        """Judge a run that is closed: nothing is left, and what is told is true."""
        self.phase = record.phase
        self._nobody_elses()
        if self._night.cloud.existing:
            raise Broken(f"teardown: closed, and {_names(self._night)} exist")
        self._is_upper_bound(record)
        self._within_the_cap()
        self._night.witness.at_end(record)
        if not self._may_end_like_this(record):
            raise Broken(f"truth: the run ended {record.phase}: {outcome(record).sentence}")
        self._no_key_shows(record)

    def leaked(self, record: RunRecord) -> None:
        """Judge a run that a launcher gave back as LEAKED: every pod there is has to be named."""
        if record.phase is not Phase.LEAKED:
            raise Broken(f"truth: a launcher gave the run back in phase {record.phase}")
        if Layer.LOOP not in self._night.fault.cuts_off:
            raise Broken(f"teardown: LEAKED, and nothing keeps a launcher from ending {_names(self._night)}")
        self.told_leaked += 1
        self._nobody_elses()
        self._is_upper_bound(record)
        told = "\n".join(leaked_lines(record))
        for pod in self._night.cloud.existing:
            if pod.pod_id not in told and pod.name not in told:
                raise Broken(f"truth: LEAKED does not name {pod.pod_id}: {told}")
        if exit_code(record) != Exit.LEAKED:
            raise Broken(f"truth: LEAKED with exit code {exit_code(record)}")
        self._no_key_shows(record)

    def left_alone(self) -> None:
        """Look at what the layers left that act without a launcher."""
        self._nobody_elses()
        self.left = len(self._night.cloud.existing)
        self._within_the_cap()
        if self.left and self._night.in_reach:
            raise Broken(f"teardown: {sorted(self._night.in_reach)} left {_names(self._night)}")

    def _within_the_cap(self) -> None:
        """Spend is under the cap where a layer can reach the provider; at a price that rose, the time is."""
        night = self._night
        if night.in_reach and night.cloud.spent() > night.cap * night.fault.dearer:
            raise Broken(f"money: ${night.cloud.spent():.4f} were spent under a cap of ${night.cap:.2f}")

    def _may_end_like_this(self, record: RunRecord) -> bool:
        """Whether its fault explains how a run ended; or that nobody came before its time was over."""
        if record.phase in self._night.fault.ends:
            return True
        late = self._night.alone_seconds >= MINUTES_PAID * 60
        return late and record.phase is Phase.FAILED and outcome(record).exit_code is Exit.INCOMPLETE

    def _is_upper_bound(self, record: RunRecord) -> None:
        """What is told that it cost at most is no less than it did, to the second that clocks tell.

        But for what nobody can know: that a pod was dearer than offered that came and went unseen.
        """
        night = self._night
        seen = {pod_id for attempt in record.attempts for pod_id in attempt.pod_ids}
        unseen = sum(night.cloud.spent(pod_id) for pod_id in night.pods.bills if pod_id not in seen)
        unknown = unseen * (1 - 1 / night.fault.dearer)
        rounding = sum(bill.price_per_hour for bill in night.pods.bills.values()) * CLOCK_SECONDS / 3600
        real, told = night.cloud.spent() - unknown, spent_at_most(record, night.store.at)
        if real > told + rounding:
            raise Broken(f"truth: ${real:.4f} were spent, ${told:.4f} are told")

    def _nobody_elses(self) -> None:
        touched = self._night.cloud.touched_strangers
        if touched or any(
            pod.ended_by not in ("", "balance") for pod in self._night.cloud.pods if pod.stranger
        ):
            raise Broken(f"teardown: a stranger's pod was touched: {touched}")

    def _no_key_shows(self, record: RunRecord) -> None:
        night = self._night
        said = "\n".join((*night.notes.lines, record.encode().decode()))
        if any(key in said for key in (night.cloud.account_key, *(pod.key for pod in night.cloud.pods))):
            raise Broken("secrets: a key is shown")


def _names(night: "Night") -> str:
    return ", ".join(f"{pod.name} ({pod.pod_id})" for pod in night.cloud.existing)
