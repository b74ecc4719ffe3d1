"""What goes wrong at RunPod: a table of the simulator's knobs, and what each leaves possible."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from launcher.model import Phase
from tests.crash.faults import Fault as Blow
from tests.matrix.layers import ALL, FROM_OUTSIDE, Layer
from tests.simulators.runpod import KeyRights, Misfortune, Operation, Status, Trouble

if TYPE_CHECKING:
    from tests.matrix.night import Night

Arrange = Callable[["Night"], object]
A40 = "NVIDIA A40"
READS = (Operation.LIST, Operation.GET, Operation.GPUS, Operation.LOGS)
ENDS = (Operation.DELETE, Operation.TERMINATE_ACTION, Operation.GRAPHQL_TERMINATE)
LAG_SECONDS = 15.0
"""Within what the launcher allows for."""
OUTAGE_SECONDS = 45.0
HOUR = 3600.0
FINISHES = frozenset({Phase.DONE})
MAY_NOT_FINISH = frozenset({Phase.DONE, Phase.FAILED})
FAILS = frozenset({Phase.FAILED})
MAY_BE_CANCELLED = frozenset({Phase.CANCELLED, Phase.DONE})
NO_LAYER: frozenset[Layer] = frozenset()


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    name: str
    arrange: Arrange
    blows: frozenset[Blow] = frozenset()
    """What of the crash suite's faults it amounts to, for its witness."""
    cuts_off: frozenset[Layer] = NO_LAYER
    """Layers that cannot end a pod, or not within the reserve."""
    ends: frozenset[Phase] = FINISHES
    """How the run may end."""
    dearer: float = 1.0
    """What a pod really costs in terms of what was offered."""
    for_good: bool = False
    """Whether it lasts until a person sets it right."""


def answer(trouble: Trouble, *operations: Operation, **options: Any) -> Arrange:
    """Let the next answers go wrong."""
    return lambda night: night.cloud.trouble(trouble, *operations, **options)


def outage(
    trouble: Trouble, *operations: Operation, seconds: float = OUTAGE_SECONDS, **options: Any
) -> Arrange:
    """Let all answers of a kind go wrong for a while, from the moment the first pod is up."""

    def begin(night: "Night") -> None:
        until = night.store.at + timedelta(seconds=seconds)
        night.cloud.trouble(trouble, *operations, times=None, until=until, **options)

    return lambda night: night.when_up(0.0, lambda: begin(night))


def conditions(**values: Any) -> Arrange:
    """Set how the provider behaves."""
    return lambda night: vars(night.cloud.faults.conditions).update(values)


def first_pod(**fate: Any) -> Arrange:
    """Let something happen to the first pod."""
    return lambda night: night.cloud.faults.next_pods.append(Misfortune(**fate))


def every_pod(**fate: Any) -> Arrange:
    """Let something happen to every pod."""
    return lambda night: setattr(night.cloud.faults, "every_pod", Misfortune(**fate))


def in_data_centers(arrange: Arrange) -> Arrange:
    """Ask for pods in data centers by name."""

    def both(night: "Night") -> None:
        night.data_centers = ("EU-SE-1", "US-KS-2")
        arrange(night)

    return both


def _unreadable_balance(night: "Night") -> None:
    night.balance_is_unreadable = True
    night.after(OUTAGE_SECONDS, lambda: setattr(night, "balance_is_unreadable", False))


def _swept(night: "Night") -> None:
    """The balance is used up in the middle of the night, and paid in again later."""
    night.when_up(12.0, lambda: night.cloud.set_balance(0.0))
    night.when_up(12.0, lambda: night.after(night.seconds + 120.0, lambda: night.cloud.set_balance(100.0)))


def _hanging_job(night: "Night") -> None:
    """The first job stands still after its first checkpoint; only its watchdog goes on."""
    night.job_options.append({"hang_at_epoch": 3})


def _empty_lists(night: "Night") -> None:
    """Of a pod whose id is on record: of one that no list shows and no record names nobody can know."""

    def begin() -> None:
        until = night.store.at + timedelta(seconds=OUTAGE_SECONDS)
        night.cloud.trouble(Trouble.EMPTY, Operation.LIST, times=None, until=until)

    night.when_known(begin)


def _cancelled_young(night: "Night") -> None:
    conditions(list_lag_seconds=LAG_SECONDS, get_lag_seconds=LAG_SECONDS)(night)
    night.after(6.0, night.cancel)


def both(*arranged: Arrange) -> Arrange:
    """Let several things go wrong."""

    def arrange(night: "Night") -> None:
        for each in arranged:
            each(night)

    return arrange


DEARER = frozenset({Blow.PRICE_RISES})
LOST = frozenset({Blow.CREATE_LOST})
DOWN = frozenset({Blow.PROVIDER_DOWN})
LAGS = frozenset({Blow.PROVIDER_LAGS})
HANGS = frozenset({Blow.POD_HANGS})
VANISHES = frozenset({Blow.POD_VANISHES})
STUBBORN = frozenset({Blow.STUBBORN})
JOB = frozenset({Layer.JOB})

FAULTS = (
    Fault("nothing", lambda night: None),
    # A request for a pod.
    Fault("500 after create", answer(Trouble.SERVER_ERROR, Operation.CREATE, after_effect=True), LOST),
    Fault("time-out after create", answer(Trouble.TIMEOUT, Operation.CREATE, after_effect=True), LOST),
    Fault("cut off after create", answer(Trouble.DISCONNECT, Operation.CREATE, after_effect=True), LOST),
    Fault("HTML 502 after create", answer(Trouble.BAD_GATEWAY, Operation.CREATE, after_effect=True), LOST),
    Fault("truncated answer to create", answer(Trouble.TRUNCATED, Operation.CREATE), LOST),
    Fault("malformed answer to create", answer(Trouble.MALFORMED, Operation.CREATE), LOST),
    Fault("500 before create", answer(Trouble.SERVER_ERROR, Operation.CREATE), LOST),
    Fault("429 to create", answer(Trouble.RATE_LIMITED, Operation.CREATE)),
    Fault("no capacity for a GPU", conditions(no_capacity={(A40, "")})),
    Fault("no capacity in a data center", in_data_centers(conditions(no_capacity={("", "EU-SE-1")}))),
    Fault("no capacity at all", conditions(no_capacity={("", "")}), ends=FAILS),
    Fault("400 to every create", answer(Trouble.BAD_REQUEST, Operation.CREATE, times=None), ends=FAILS),
    Fault("401 to create", answer(Trouble.UNAUTHORIZED, Operation.CREATE), ends=MAY_NOT_FINISH),
    Fault("402 to create", answer(Trouble.NO_BALANCE, Operation.CREATE), ends=MAY_NOT_FINISH),
    Fault("403 for a GPU", conditions(forbidden_gpus={A40})),
    Fault("Cloudflare 1010 to create", answer(Trouble.CLOUDFLARE, Operation.CREATE)),
    Fault("unreadable balance", _unreadable_balance),
    # What is read.
    Fault("list lag", conditions(list_lag_seconds=LAG_SECONDS), LAGS),
    Fault(
        "404 right after create", conditions(list_lag_seconds=LAG_SECONDS, get_lag_seconds=LAG_SECONDS), LAGS
    ),
    Fault("list in pages", conditions(page_size=1)),
    Fault("429 to reads", answer(Trouble.RATE_LIMITED, *READS, times=6), DOWN),
    Fault("quota of a minute", conditions(quota_per_minute=12), DOWN),
    Fault("HTML 502 to everything", outage(Trouble.BAD_GATEWAY), DOWN),
    Fault("time-outs of everything", outage(Trouble.TIMEOUT), DOWN),
    Fault("Cloudflare 1010 to everything", outage(Trouble.CLOUDFLARE, by_pods=False), DOWN),
    Fault("truncated JSON", answer(Trouble.TRUNCATED, Operation.LIST, Operation.GET, times=8), DOWN),
    Fault("malformed list", outage(Trouble.MALFORMED, Operation.LIST), DOWN),
    Fault("empty list once", outage(Trouble.EMPTY, Operation.LIST, seconds=6.0)),
    Fault("empty list for a while", _empty_lists),
    Fault("a pod's end comes late", conditions(end_lag_seconds=20.0, list_linger_seconds=60.0)),
    Fault(
        "key revoked",
        outage(Trouble.UNAUTHORIZED, seconds=10 * HOUR, by_pods=False),
        DOWN,
        FROM_OUTSIDE,
        for_good=True,
    ),
    Fault("403 to the key", outage(Trouble.FORBIDDEN, seconds=1000.0, by_pods=False), DOWN, FROM_OUTSIDE),
    # Pods.
    Fault("ERROR status", first_pod(boots_into_error=True), HANGS, JOB, MAY_NOT_FINISH),
    Fault("RUNNING without runtime", first_pod(never_ready=True), HANGS, JOB, MAY_NOT_FINISH),
    Fault("PROVISIONING for ever", first_pod(stays_provisioning=True), HANGS, JOB, MAY_NOT_FINISH),
    Fault("restart loop", first_pod(restart_loop_seconds=4.0), HANGS, ends=MAY_NOT_FINISH),
    Fault("hanging job", _hanging_job, HANGS, ends=MAY_NOT_FINISH),
    Fault(
        "hanging job without a key",
        both(_hanging_job, conditions(pod_key_rights=KeyRights.NOWHERE)),
        HANGS,
        JOB,
        MAY_NOT_FINISH,
    ),
    Fault(
        "hanging job at twice the price",
        both(_hanging_job, first_pod(price_factor=2.0)),
        HANGS | DEARER,
        ends=MAY_NOT_FINISH,
        dearer=2.0,
    ),
    Fault(
        "cancelled while it answers 404",
        _cancelled_young,
        LAGS,
        ends=frozenset({Phase.CANCELLED, Phase.DONE}),
    ),
    Fault("host restarts", first_pod(host_restart_after=12.0)),
    Fault("SIGTERM ignored", every_pod(ignores_sigterm=True)),
    Fault("host ends the pod", first_pod(host_kill_after=12.0), VANISHES),
    Fault(
        "host leaves it EXITED",
        first_pod(host_kill_after=12.0, host_kill_leaves=Status.EXITED.value),
        VANISHES,
        JOB,
        MAY_NOT_FINISH,
    ),
    Fault(
        "host leaves it in ERROR",
        first_pod(host_kill_after=12.0, host_kill_leaves=Status.ERROR.value),
        VANISHES,
        JOB,
        MAY_NOT_FINISH,
    ),
    Fault("balance swept", _swept, VANISHES),
    Fault(
        "price above the catalog",
        first_pod(price_factor=2.0),
        DEARER,
        ends=MAY_NOT_FINISH,
        dearer=2.0,
    ),
    # Ends.
    Fault("locked", every_pod(locked=True), STUBBORN, ALL, for_good=True),
    Fault("answers to terminate lost", answer(Trouble.TIMEOUT, *ENDS, times=3, after_effect=True), DOWN),
    Fault("500 after terminate", answer(Trouble.SERVER_ERROR, *ENDS, times=3, after_effect=True), DOWN),
    Fault(
        "terminate refused for an hour",
        lambda night: night.cloud.refuse_terminations(night.store.at + timedelta(hours=1)),
        STUBBORN,
        ALL,
    ),
    Fault("terminate refused with 403", answer(Trouble.FORBIDDEN, *ENDS, times=2), DOWN),
    # The pod's own key.
    Fault("own key for v2", conditions(pod_key_rights=KeyRights.V2)),
    Fault("own key for GraphQL", conditions(pod_key_rights=KeyRights.GRAPHQL)),
    Fault("own key for nothing", conditions(pod_key_rights=KeyRights.NOWHERE), cuts_off=JOB),
)
