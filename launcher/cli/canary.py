"""`retrain doctor --live-canary`: rents a pod for a few minutes and tells what was proven."""

import sys
from dataclasses import replace
from datetime import timedelta

from launcher import __version__
from launcher.cli.follow import noting_leaks
from launcher.cli.narrator import Narrator
from launcher.cli.providers import canary_pods, require_startable, runpod_api, runpod_fingerprint, runpod_key
from launcher.cli.wiring import Workplace, workplace
from launcher.ending.canary import Flight, canary_record, fly, result_of
from launcher.ending.unattended import CanaryResult, keep_canary
from launcher.errors import Exit, UsageError
from launcher.machine.files import disk_errors, write_atomically
from launcher.model import RunRecord
from launcher.money.audit import audited
from launcher.plan import run_spec
from launcher.pods.runpod_api import Termination
from launcher.ports import Pods, Store
from launcher.results.home import Home
from launcher.settings import Provider, Settings
from launcher.storage.probe import require_conditions
from launcher.storage.s3 import S3Store

BILL_POLL_SECONDS = 60.0


def live_canary(settings: Settings, *, bill_minutes: float, as_json: bool) -> int:
    """Fly a canary under the configured cap, keep and print its result, and return the exit code.

    Raises what `launcher.ending.canary.fly` raises, and UsageError where nothing can be rented.
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

        def forgotten(pod_id: str) -> bool:
            return api.terminate(pod_id) is Termination.NOT_KNOWN

        with noting_leaks(place, record.run_id):
            flight = fly(world, place.journal, record, forgotten=forgotten, guard=place.guard)
        account = runpod_fingerprint(settings)
        result = result_of(flight, world, version=__version__, account=account)
        # What tells neither yes nor no must not replace what does; and a bill may be waited for in vain.
        told = flight.ended_itself is not None
        if told:
            _keep(result, settings, world.store)
        result = _with_bill(result, flight.record, place, world.pods, bill_minutes)
        if told:
            _keep(result, settings, world.store)
    sys.stdout.write(result.model_dump_json() + "\n" if as_json else _text(result, flight))
    return int(Exit.DONE if flight.ended_itself else Exit.INFRASTRUCTURE)


def _keep(result: CanaryResult, settings: Settings, store: Store) -> None:
    """Keep a result in the bucket, where every start looks for it, and in the workspace."""
    keep_canary(store, result)
    path = settings.run.workspace / "canary" / f"{result.namespace}.json"
    with disk_errors(f"{path} cannot be written"):
        write_atomically(path, result.model_dump_json(indent=2).encode())


def _with_bill(
    result: CanaryResult, record: RunRecord, place: Workplace, pods: Pods, minutes: float
) -> CanaryResult:
    """Ask for the bill until it has settled or that time is over; nothing costs any more meanwhile."""
    clock, say = place.world.clock, place.narrator.say
    until = clock.monotonic() + minutes * 60
    if minutes:
        say(f"nothing costs any more; waiting {minutes:g} min at most for RunPod's bill (Ctrl-C skips that)")
    try:
        while True:
            record = audited(record, pods, place.world.store, place.journal, say)
            if _settled(record) or clock.monotonic() >= until:
                break
            clock.sleep(min(BILL_POLL_SECONDS, max(0.0, until - clock.monotonic())))
    except KeyboardInterrupt:
        say("not waiting for the bill; `retrain status` asks for it again")
    told = sum(bill.dollars for bill in record.bills)
    return result.model_copy(update={"billed_dollars": told or None, "bill_settled": _settled(record)})


def _settled(record: RunRecord) -> bool:
    return bool(record.bills) and all(bill.settled for bill in record.bills)


def _text(result: CanaryResult, flight: Flight) -> str:
    heard = [f"{api} {'accepted it' if yes else 'refused it'}" for api, yes in result.own_key.items()]
    word = {True: "proven", False: "REFUTED", None: "not proven"}[flight.ended_itself]
    lines = [
        f"self-termination: {word}: {flight.why}",
        f"  the pod's own key: {', '.join(heard) or 'which API heeds it was not seen'}",
        f"  the pod told: {', '.join(f'{name} {text}' for name, text in result.hints.items()) or 'nothing'}",
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
