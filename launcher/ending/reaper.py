"""Looks at a provider's pods and ends those that must end, without being the launcher of their runs.

Stateless: it keeps no record, takes no lease and writes nothing to the store. Knows the ports; what must end
is judged in `launcher.ending.reap`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

from launcher.ending.reap import Verdict, earliest, judge, ours
from launcher.errors import PodError, RetrainError, UnreadableRecord, UsageError
from launcher.journal import Journal
from launcher.kept_time import KeptTime
from launcher.model import RunRecord
from launcher.naming import PodName
from launcher.ports import Clock, Notifier, Pod, Pods, Store

PAUSE_SECONDS = 5.0
"""Between two looks whether a pod is gone."""
Opening = Callable[[], AbstractContextManager[Store | None]]
"""Opens the store of the runs' records for a moment; None where there is none to be had. May raise."""


@dataclass(frozen=True)
class Sight:
    """Every pod of ours at one moment, and what is to become of each."""

    now: datetime
    verdicts: tuple[Verdict, ...]

    @property
    def due(self) -> tuple[Verdict, ...]:
        """Return those that must end now."""
        return tuple(verdict for verdict in self.verdicts if verdict.due)


class Reaper:
    """Judges and ends the pods of one namespace, or of one run in it."""

    def __init__(
        self,
        pods: Pods,
        clock: Clock,
        notifier: Notifier,
        *,
        namespace: str,
        run_id: str | None = None,
        create_lag: timedelta,
        store: Opening = lambda: nullcontext(None),
    ) -> None:
        """`create_lag` is how long the provider may not know a young pod everywhere."""
        self._pods = pods
        self._clock = clock
        self._notifier = notifier
        self._namespace = namespace
        self._run_id = run_id
        self._store = store
        self._create_lag = create_lag
        self._time = KeptTime(clock)

    def look(self) -> Sight:
        """List the pods once and judge ours.

        Raises PodError when the provider does not answer, or neither it nor the store tells the time.
        """
        # Pods first: a record that is read after them knows everything that led to them.
        found = ours(self._pods.list(), namespace=self._namespace, run_id=self._run_id)
        unknown: PodError | None = None
        clocks: list[datetime] = []
        try:
            clocks.append(self._pods.now())
        except PodError as error:
            unknown = error
        records: Mapping[str, RunRecord] = {}
        if found or unknown:
            stores_now, records = self._on_record({mine.name.run_id for mine in found})
            clocks += [stores_now] if stores_now else []
        if unknown and not clocks:
            raise unknown
        # The provider's where it is told: ages of its pods are by its clock.
        self._time.hear(clocks[0])
        now = earliest(clocks)
        return Sight(now, tuple(judge(mine, records.get(mine.name.run_id), now) for mine in found))

    def reaches(self, provider: str, place: str) -> bool:
        """Whether it looks at the pods of this provider and place: from elsewhere they look absent."""
        try:
            return (self._pods.provider, self._pods.place) == (provider, place)
        except PodError:
            return False

    def is_closed(self, run_id: str) -> bool:
        """Whether a run is known to be closed."""
        _, records = self._on_record({run_id})
        return run_id in records and records[run_id].phase.closed

    def end(self, due: Iterable[Verdict], *, seconds: float) -> tuple[Verdict, ...]:
        """Ask for the end of pods until all are confirmed gone, for `seconds` at the most; return the others.

        Gone is what the provider acknowledged, and then shows neither in its list nor by id. That says
        nothing of a pod so young that the provider may not know it everywhere: it is asked for again.
        """
        left = {verdict.pod.pod_id: verdict for verdict in due}
        acknowledged: set[str] = set()
        until = self._clock.monotonic() + seconds
        while left:
            acknowledged |= {pod_id for pod_id in left if self._ask(pod_id)}
            known = {pod_id for pod_id in acknowledged & left.keys() if not self._is_young(left[pod_id].pod)}
            for pod_id in self._absent(known):
                del left[pod_id]
            rest = until - self._clock.monotonic()
            if not left or rest <= 0:
                break
            self._clock.sleep(min(PAUSE_SECONDS, rest))
        return tuple(left.values())

    def forsaken(self, noted: Iterable[tuple[str, str]], now: datetime) -> Sequence[tuple[str, str]]:
        """Return which pods, by name and id, are gone that had to end long ago; asks for their end once more.

        An id may be "" where none is known: then no pod of the name may be left. Who may still have worked a
        lag ago, or is not of this namespace, is not judged.
        """
        past = [
            (name, pod_id)
            for name, pod_id in noted
            if (parsed := PodName.parse(name)) is not None
            and parsed.namespace == self._namespace
            and now >= parsed.hard_deadline + self._create_lag
        ]
        if not past:
            return ()
        asked = {pod_id for _, pod_id in past if pod_id and self._ask(pod_id)}
        absent = {*self._absent(asked), ""}
        try:
            names = {pod.name for pod in self._pods.list()}
        except PodError as error:
            self._notifier.say(f"nobody knows yet whether noted pods are gone: {error}")
            return ()
        return [(name, pod_id) for name, pod_id in past if pod_id in absent and (pod_id or name not in names)]

    def _ask(self, pod_id: str) -> bool:
        """Ask for a pod's end; whether that was acknowledged."""
        try:
            return self._pods.terminate(pod_id)
        except PodError as error:
            self._notifier.say(f"pod {pod_id} could not be ended yet: {error}")
            return False

    def _is_young(self, pod: Pod) -> bool:
        """Whether the provider may not know a pod everywhere yet, so that its absence proves nothing."""
        now = self._time.now()
        return now is None or now < pod.created_at + self._create_lag

    def _absent(self, pod_ids: Iterable[str]) -> Sequence[str]:
        """Return which pods the provider shows no longer. An error is no absence."""
        wanted = sorted(pod_ids)
        if not wanted:
            return ()
        try:
            shown = {pod.pod_id for pod in self._pods.list()}
            return [pod_id for pod_id in wanted if pod_id not in shown and self._pods.get(pod_id) is None]
        except PodError as error:
            self._notifier.say(f"nobody knows yet whether {', '.join(wanted)} is gone: {error}")
            return ()

    def _on_record(self, run_ids: Iterable[str]) -> tuple[datetime | None, Mapping[str, RunRecord]]:
        """Return the store's time and the records that can be read; nothing of what cannot."""
        found: dict[str, RunRecord] = {}
        now: datetime | None = None
        try:
            with self._store() as store:
                if store is None:
                    return None, {}
                journal = Journal(store, holder="")
                now = store.now()
                for run_id in sorted(run_ids):
                    try:
                        found[run_id] = journal.read(run_id)
                    except (UsageError, UnreadableRecord) as error:
                        self._notifier.say(f"{error}; the deadline in its pod's name counts")
        except RetrainError as error:
            # Not asked for the other records: a store that is silent would be waited for again and again.
            self._notifier.say(f"the records cannot be read, the deadlines in the pods' names count: {error}")
        return now, found
