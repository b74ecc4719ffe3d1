"""`retrain doctor --live-canary`: rents a pod for a few minutes and tells what was proven."""

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from launcher import __version__
from launcher.billing import Bill, billed
from launcher.canary import Flight, canary_record, fly, result_of
from launcher.cli.narrator import Narrator
from launcher.cli.providers import canary_pods, require_startable, runpod_api, runpod_key
from launcher.cli.wiring import Workplace, workplace
from launcher.errors import Exit, Leaked, PodError, StorageError, UsageError
from launcher.files import disk_errors, write_atomically
from launcher.home import Home
from launcher.model import Attempt
from launcher.plan import run_spec
from launcher.pods.runpod_api import RunpodApi
from launcher.settings import Provider, Settings
from launcher.storage.probe import require_conditions
from launcher.storage.s3 import S3Store
from launcher.unattended import CanaryResult, keep_canary

BILL_POLL_SECONDS = 60.0


def live_canary(settings: Settings, *, bill_minutes: float, as_json: bool) -> int:
    """Fly a canary under the configured cap, keep and print its result, and return the exit code.

    Raises what `launcher.canary.fly` raises, and UsageError where nothing can be rented.
    """
    if settings.run.provider is not Provider.RUNPOD:
        raise UsageError("a live canary rents a pod", next_step="give --provider runpod")
    require_startable(settings)
    narrator = Narrator()
    with runpod_api(runpod_key(settings)) as api, workplace(settings, narrator) as place:
        assert isinstance(place.world.store, S3Store)
        require_conditions(place.world.store)
        folder = settings.run.workspace / "canary"
        world = replace(
            place.world, pods=canary_pods(settings, api), home=Home(folder, settings.run.workspace)
        )
        cap = settings.budget.cap_dollars
        record = canary_record(run_spec(settings, (), None, place=world.pods.place), world, cap_dollars=cap)
        try:
            flight = fly(world, place.journal, record, guard=place.guard)
        except Leaked as leak:
            place.leaks.note(record.run_id, [str(leak)])
            raise
        result = result_of(flight, world, version=__version__)
        keep = _keeper(settings, place, flight)
        keep(result)
        result = _with_bill(result, flight, api, place, bill_minutes, keep)
    sys.stdout.write(result.model_dump_json() + "\n" if as_json else _text(result, flight))
    return int(Exit.DONE if flight.ended_itself else Exit.INFRASTRUCTURE)


def _keeper(settings: Settings, place: Workplace, flight: Flight) -> Callable[[CanaryResult], None]:
    """Return what keeps a result, in the bucket and in the workspace: one that tells nothing is not kept."""

    def keep(result: CanaryResult) -> None:
        if flight.ended_itself is None:
            return
        keep_canary(place.world.store, result)
        path = settings.run.workspace / "canary" / f"{result.namespace}.json"
        with disk_errors(f"{path} cannot be written"):
            write_atomically(path, result.model_dump_json(indent=2).encode())

    return keep


def _with_bill(
    result: CanaryResult,
    flight: Flight,
    api: RunpodApi,
    place: Workplace,
    minutes: float,
    keep: Callable[[CanaryResult], None],
) -> CanaryResult:
    """Ask for the bill until it has settled or that time is over; nothing costs any more meanwhile."""
    clock, say = place.world.clock, place.narrator.say
    until = clock.monotonic() + minutes * 60
    if minutes:
        say(f"nothing costs any more; waiting {minutes:g} min at most for RunPod's bill (Ctrl-C skips that)")
    bill: Bill | None = None
    attempt = flight.record.attempts[-1]
    try:
        while True:
            try:
                bill = _asked(bill, attempt, api, place)
            except (PodError, StorageError) as error:
                say(f"the bill is not known yet: {error}")
            if (bill is not None and bill.settled) or clock.monotonic() >= until:
                break
            clock.sleep(min(BILL_POLL_SECONDS, max(0.0, until - clock.monotonic())))
    except KeyboardInterrupt:
        say("not waiting for the bill")
    if bill is None:
        return result
    update = {"billed_dollars": bill.dollars or None, "bill_settled": bill.settled}
    result = result.model_copy(update=update)
    keep(result)
    return result


def _asked(known: Bill | None, attempt: Attempt, api: RunpodApi, place: Workplace) -> Bill:
    now = place.world.store.now()
    start, gone_at = attempt.asked_at or attempt.intent_at, attempt.gone_at or now
    rows = [row for pod_id in attempt.pod_ids for row in api.billing(pod_id, start, now)]
    dollars = max(0.0, sum(row.total_amount for row in rows))
    return billed(known, attempt.pod_ids[0], dollars, gone_at=gone_at, now=now)


def _text(result: CanaryResult, flight: Flight) -> str:
    heard = [f"{api} {'accepted it' if yes else 'refused it'}" for api, yes in result.own_key.items()]
    word = {True: "proven", False: "REFUTED", None: "not proven"}[flight.ended_itself]
    lines = [
        f"self-termination: {word}: {flight.why}",
        f"  the pod's own key: {', '.join(heard) or 'which API heeds it was not seen'}",
        *(f"  {moment}: after {seconds:.0f} s" for moment, seconds in flight.sighting.moments.items()),
        f"  {result.offer} {result.location} at ${result.price_per_hour:.3f} an hour, from request to proof"
        f" {timedelta(seconds=int(result.charged_seconds))}: at most ${result.charged_dollars:.4f}",
        f"  {_bill_text(result)}",
        f"  no pod is left; {result.at:%Y-%m-%d %H:%M} UTC, retrain {result.retrain}, run {result.run_id}",
    ]
    if flight.ended_itself is None:
        lines.append("  nothing was kept: this result says neither yes nor no")
    return "\n".join(lines) + "\n"


def _bill_text(result: CanaryResult) -> str:
    if result.billed_dollars is None:
        return "RunPod's bill: not told yet"
    return f"RunPod's bill: ${result.billed_dollars:.4f}{'' if result.bill_settled else ', not settled yet'}"
