"""The live canary: a pod is rented for a few minutes to see that it ends itself.

It is a run like any other, on record before its pod is asked for, with a hard deadline in its pod's name:
whoever finds it left over (`cancel`, `reconcile`, `reap`) ends it as they end every run. It names no data
set, so its job boots, claims the attempt, says that there is nothing to train, and ends its pod, with the
code and in the image that a night depends on. Meanwhile no pass is made, so nobody else asks for that end.
Afterwards the loop proves that nothing is left. Knows the ports, the journal and the loop.
"""

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from job.contract.recipe import Recipe
from launcher.actions import World
from launcher.ending.canary_watch import Moment, Sighting, Watch
from launcher.ending.unattended import CanaryResult
from launcher.errors import Leaked, LeaseHeld, PodError, RetrainError, UsageError
from launcher.journal import Journal
from launcher.loop import Loop
from launcher.model import Budget, Phase, RunRecord, RunSpec, seconds_between
from launcher.money.budget import spent_at_most
from launcher.outcome import outcome

NAME = "canary"
MAX_SECONDS = 45 * 60.0
RESERVE_SECONDS = 90.0
"""Kept of its time for the launcher to end a pod that did not end itself."""
CAPACITY_SECONDS = 60.0
"""How long it waits for a machine: whoever started it looks on."""
TROUBLE_SECONDS = 10.0
"""Between two tries to end a pod whose record cannot be had."""


@dataclass(frozen=True)
class Flight:
    """How a canary went. Its pod is proven gone."""

    record: RunRecord
    sighting: Sighting
    ended_itself: bool | None
    """None: it cannot be told."""
    why: str
    """In a sentence."""


def canary_record(run_spec: RunSpec, world: World, *, cap_dollars: float) -> RunRecord:
    """Return the record of a canary like a run of `run_spec`, with nothing to train and a cap of its own."""
    now = world.store.now()
    spec = run_spec.model_copy(
        update={
            "output_name": f"{NAME}-{run_spec.namespace}",
            "recipe": Recipe(output_name=NAME, max_epochs=1),
            "inputs": (),
            "evaluation": None,
            "max_attempts": 1,
            "budget": Budget(
                cap_dollars=cap_dollars,
                max_seconds=MAX_SECONDS,
                reserve_seconds=RESERVE_SECONDS,
                price_ceiling=run_spec.budget.price_ceiling,
            ),
            "clocks": run_spec.clocks.model_copy(update={"capacity_seconds": CAPACITY_SECONDS}),
            "canary": True,
            "paid": True,
            "cheapest": True,
            "speeds": (),
        }
    )
    return RunRecord(run_id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}", created_at=now, spec=spec)


def fly(
    world: World,
    journal: Journal,
    record: RunRecord,
    *,
    forgotten: Callable[[str], bool],
    guard: Callable[[RunRecord], None] = lambda _: None,
) -> Flight:
    """Rent the pod, watch it end itself, prove it gone. `guard` is called before anything is asked for.

    `forgotten` asks the provider for a pod's end, and tells whether it did not know that pod.
    However this is left, Ctrl-C included, the pod is ended first. Raises PodError when none could be had,
    Leaked when one may still run, UsageError while another canary of this namespace is open.
    """
    if journal.is_open(record.spec.output_name):
        raise UsageError(
            "an earlier live canary is still open",
            next_step="`retrain cancel` ends it; `retrain status` shows it",
        )
    journal.release(journal.create(record))
    guard(record)
    watch, untouched = None, False
    try:
        record = Loop(world, journal).drive(record.run_id, until=_has_pod)
        if _has_pod(record) and record.phase is not Phase.LEAKED:
            watch = Watch(world, record)
            untouched = _watched(watch, world, journal, record, forgotten)
    finally:
        record = _ended(world, journal, record)
    if watch is None:
        raise PodError(f"no pod could be rented for the canary: {outcome(record).sentence}")
    ended_itself, why = judged(watch.seen, untouched=untouched)
    return Flight(record, watch.seen, ended_itself, why)


def judged(sighting: Sighting, *, untouched: bool) -> tuple[bool | None, str]:
    """Return whether the pod ended itself, None where that cannot be told, and why.

    `untouched`: no launcher asked for its end.
    """
    gone = Moment.GONE in sighting.moments
    if Moment.LAST_WORD not in sighting.moments:
        how = "the pod was gone" if gone else "the canary's time was over"
        return None, f"{how} before its job said its last word"
    if gone and not untouched:
        return None, "the pod is gone, but another launcher may have ended it"
    if gone and not sighting.forgotten:
        return None, "no look showed the pod, but asked for its end its provider did not call it unknown"
    if gone:
        return True, "the pod ended itself"
    if sighting.overstayed:
        return False, "the pod did not end itself"
    return None, "the canary's time was over before its pod could be seen to end itself"


def result_of(flight: Flight, world: World, *, version: str, account: str) -> CanaryResult:
    """Return what the flight showed. `version` is retrain's, `account` the fingerprint of the key."""
    record, sighting = flight.record, flight.sighting
    attempt, spec = record.attempts[-1], record.spec
    gone_at = attempt.gone_at or world.store.now()
    return CanaryResult(
        at=gone_at,
        namespace=spec.namespace,
        provider=spec.provider,
        account=account,
        image=spec.image,
        retrain=version,
        run_id=record.run_id,
        offer=attempt.offer,
        location=attempt.offer_location,
        price_per_hour=attempt.price_per_hour or attempt.price_ceiling,
        ended_itself=flight.ended_itself is True,
        own_key=sighting.answers,
        hints=sighting.hints,
        seconds={moment.name.lower(): seconds for moment, seconds in sighting.moments.items()},
        charged_seconds=seconds_between(attempt.asked_at or attempt.intent_at, gone_at),
        charged_dollars=spent_at_most(record, gone_at),
    )


def _has_pod(record: RunRecord) -> bool:
    return any(attempt.open and attempt.pod_ids for attempt in record.attempts)


def _watched(
    watch: Watch, world: World, journal: Journal, record: RunRecord, forgotten: Callable[[str], bool]
) -> bool:
    """Watch under the run's lease; whether no launcher had a hand in the attempt's end.

    Where the pod is gone its provider is asked for its end all the same: what it still knows is not gone.
    """
    try:
        held = journal.acquire(record.run_id)
    except LeaseHeld as error:
        world.notifier.say(str(error))
        return False
    try:
        watch.run(keep=lambda: journal.write(held, held.record))
        if Moment.GONE in watch.seen.moments:
            with suppress(PodError):
                watch.seen.forgotten = all(forgotten(pod_id) for pod_id in record.attempts[-1].pod_ids)
        journal.refresh(held)
        attempt = held.record.attempts[-1]
        return not attempt.acknowledged and attempt.ended is None
    except LeaseHeld as error:
        world.notifier.say(str(error))
        return False
    finally:
        journal.release(held)


def _ended(world: World, journal: Journal, record: RunRecord) -> RunRecord:
    """Bring the run to its proven end. Raises Leaked when that takes too long."""
    until = world.clock.monotonic() + record.spec.clocks.leak_seconds
    while True:
        try:
            journal.request_cancel(record.run_id)
            record = Loop(world, journal).drive(record.run_id)
        except RetrainError as error:
            world.notifier.say(f"the canary's run cannot be ended in order yet: {error}")
            if not isinstance(error, LeaseHeld):
                _end_pods(world, record)
        if record.phase.closed:
            return record
        if record.phase is Phase.LEAKED or world.clock.monotonic() > until:
            pods = [
                pod_id for attempt in record.attempts for pod_id in attempt.pod_ids or (attempt.pod_name,)
            ]
            raise Leaked(
                f"LEAKED: pod {', '.join(pods) or 'of run ' + record.run_id} of the canary may still run",
                pods={attempt.pod_name: attempt.pod_ids for attempt in record.attempts},
                on_record=True,
                next_step="end it in the provider's console; every later retrain command tries again, and"
                " `retrain reap --yes` ends it after its hard deadline",
            )
        world.clock.sleep(TROUBLE_SECONDS)


def _end_pods(world: World, record: RunRecord) -> None:
    """Ask for the end of what is known, without the record."""
    for attempt in record.attempts:
        with suppress(PodError):
            for pod_id in {*attempt.pod_ids, *(pod.pod_id for pod in world.pods.find(attempt.pod_name))}:
                world.pods.terminate(pod_id)
