"""What may go wrong, and when: a schedule of faults as data, which hypothesis can shrink to its core."""

from dataclasses import dataclass
from enum import StrEnum

from hypothesis import strategies as st


class Fault(StrEnum):
    """One thing that goes wrong. `size` of a `Strike` says how long or how often."""

    KILL_BEFORE = "the launcher is killed before an effect"
    KILL_AFTER = "the launcher is killed after an effect, before it can note it"
    INTERRUPTED = "the launcher is asked to go and leaves in order, in the middle of anything"
    OVERTAKEN = "the launcher stands still while another one takes the run over"
    NAP = "the laptop sleeps: the world goes on, its monotonic clock does not"
    STORE_DOWN = "the store answers a launcher with errors"
    LISTS_FAIL = "the store answers, but lists nothing"
    OUTAGE = "nobody reaches the store for a while, pods as little as launchers"
    STORE_LOST = "a launcher's writes take effect and their answers are lost"
    DOWNLOAD_BREAKS = "a download breaks off"
    PROVIDER_DOWN = "the provider answers with errors"
    PROVIDER_LAGS = "new pods are missing from the provider's list for a while"
    PROVIDER_FORGETS = "the provider shows no pod for a while that it showed before"
    CREATE_LOST = "a pod is made and the answer lost"
    CREATE_LATE = "a request for a pod takes effect later, its sender gets an error"
    CREATE_TWICE = "a request for a pod is delivered twice"
    PRICE_RISES = "the next pod costs twice what was offered"
    STUBBORN = "the provider ends no pods for a while"
    ENDS_LATE = "the provider acknowledges ends that it carries out later"
    POD_VANISHES = "the host takes the pod away"
    POD_ENDS = "the container ends, the pod stays and bills"
    POD_RESTARTS = "the container is started again"
    POD_TORN = "the container ends between two of its writes"
    POD_HANGS = "the job stands still for ever"
    ZOMBIE = "the pod is gone for the provider, its job works on"
    REPLAY = "an earlier write of a pod arrives a second time"
    CANCEL = "somebody on another machine cancels the run"
    TAMPER = "a checkpoint in the bucket is altered"
    HOME_DELETED = "the folder of results is deleted"


HARMS_PODS = frozenset(
    {
        Fault.PROVIDER_FORGETS,
        Fault.PRICE_RISES,
        Fault.POD_VANISHES,
        Fault.POD_ENDS,
        Fault.POD_TORN,
        Fault.POD_HANGS,
        Fault.ZOMBIE,
        Fault.REPLAY,
        Fault.CANCEL,
        Fault.TAMPER,
    }
)
"""After any other fault, a pod that was made must still bring the run to its end."""

SECONDS = (1, 10, 30, 61, 130, 700, 3600, 5 * 3600)
"""Lengths of time: around the poll, the lag of the list, the lease, the silence limit, hours."""
LAG_SECONDS = 9
"""The longest that a list lags or a request takes: together within what the launcher allows for."""
COUNTS = (1, 2, 3, 5, 8, 13, 25, 60)
"""Numbers of calls."""


@dataclass(frozen=True)
class Strike:
    """A fault that strikes `gap` effects after the one before."""

    gap: int
    fault: Fault
    size: int
    """Index into SECONDS or COUNTS."""

    @property
    def seconds(self) -> float:
        """Return how long it lasts, for faults that last."""
        return SECONDS[self.size]

    @property
    def count(self) -> int:
        """Return how often it happens, for faults that repeat."""
        return COUNTS[self.size]


@dataclass(frozen=True)
class Schedule:
    """A whole case: the terms of the run and what strikes it."""

    strikes: tuple[Strike, ...]
    cap_dollars: float = 5.0
    self_ending: bool = True
    """Whether pods end themselves, as real jobs do; else the launchers are the only layer."""

    @property
    def faults(self) -> frozenset[Fault]:
        """Return which faults strike."""
        return frozenset(strike.fault for strike in self.strikes)

    @property
    def away_seconds(self) -> float:
        """Return an upper bound of the time in which no launcher looks."""
        slow = {Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.INTERRUPTED, Fault.OVERTAKEN, Fault.NAP}
        return sum(strike.seconds for strike in self.strikes if strike.fault in slow)


strikes = st.builds(
    Strike,
    gap=st.integers(0, 60),
    fault=st.sampled_from(Fault),
    size=st.integers(0, len(SECONDS) - 1),
)
schedules = st.builds(
    Schedule,
    strikes=st.lists(strikes, max_size=10).map(tuple),
    cap_dollars=st.sampled_from([5.0, 0.05, 0.02]),
    self_ending=st.booleans(),
)
