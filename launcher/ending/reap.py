"""Which pods must end, judged by what they carry and what is on record: pure.

The judgement of whoever ends pods without being their run's launcher. It takes nothing for granted: a name
that is not ours is a stranger's, and a record that cannot be read is unknown, which is a ground for nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from launcher.model import RunRecord
from launcher.naming import PodName
from launcher.ports import Pod


@dataclass(frozen=True)
class Ours:
    """A pod of our namespace."""

    pod: Pod
    name: PodName


@dataclass(frozen=True)
class Verdict:
    """What is to become of a pod, and why."""

    pod: Pod
    name: PodName
    due: bool
    """Whether it must end now."""
    why: str


def ours(pods: Iterable[Pod], *, namespace: str, run_id: str | None = None) -> Sequence[Ours]:
    """Return the pods of a namespace, or of one of its runs; nobody else's is ever looked at again."""
    named = [(pod, PodName.parse(pod.name)) for pod in pods]
    return [
        Ours(pod, name)
        for pod, name in named
        if name is not None and name.namespace == namespace and run_id in (None, name.run_id)
    ]


def earliest(clocks: Iterable[datetime]) -> datetime:
    """Return the time by which deadlines are judged: past is what is past by every clock that told.

    Deadlines are set by the store's clock, which may be silent here; a clock that is ahead must not end a
    healthy pod.
    """
    return min(clocks)


def judge(mine: Ours, record: RunRecord | None, now: datetime) -> Verdict:
    """Say whether a pod must end. `record` is its run's, None where that is not known."""
    pod, name = mine.pod, mine.name

    def verdict(*, due: bool, why: str) -> Verdict:
        return Verdict(pod, name, due, why)

    if now >= name.hard_deadline:
        return verdict(
            due=True, why=f"its hard deadline passed at {name.hard_deadline:%Y-%m-%d %H:%M:%S} UTC"
        )
    until = f"it may work until {name.hard_deadline:%Y-%m-%d %H:%M:%S} UTC"
    if record is None or (record.run_id, record.spec.namespace) != (name.run_id, name.namespace):
        return verdict(due=False, why=f"{until}; its run's record is not known here")
    if record.phase.closed:
        return verdict(due=True, why=f"its run is over: {record.phase.value}")
    attempt = next((item for item in record.attempts if item.pod_name == pod.name), None)
    if attempt is None:
        return verdict(due=False, why=f"{until}; its run's record does not name it")
    if attempt.ended is not None:
        return verdict(due=True, why=f"its attempt is over: {attempt.ended.message}")
    return verdict(due=False, why=until)
