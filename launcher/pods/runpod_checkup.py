"""What is missing at RunPod before a night can be rented there. Reads only: nothing of it costs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from launcher.checkup import Finding, clock_finding, failed
from launcher.errors import PodError, RetrainError
from launcher.pods.runpod import HOURS_OF_BALANCE, NAME_PREFIX, RunpodPods
from launcher.pods.runpod_account import Balance
from launcher.pods.runpod_api import RunpodApi
from launcher.pods.runpod_errors import Kind, RunpodError
from launcher.pods.runpod_models import Stock
from launcher.ports import Offer

OFFERS_SHOWN = 4
BILLING = "add credit in RunPod's console under Billing"


@dataclass(frozen=True)
class Account:
    """Who is asked, and what a run would need."""

    api: RunpodApi
    pods: RunpodPods
    """Makes offers whatever the balance is."""
    ask_balance: Callable[[], Balance]
    require_balance: bool
    cap_dollars: float
    price_ceiling: float | None
    """Dollars an hour."""


def check_account(account: Account) -> Iterator[Finding]:
    """Yield what is found, one thing after the other; of an account whose key is refused, that alone."""
    try:
        pods = account.api.pods()
    except RunpodError as error:
        yield failed("runpod, key", error)
        if error.kind in (Kind.BAD_KEY, Kind.FORBIDDEN, Kind.NOT_SENT):
            return
    else:
        ours = sum(pod.name.startswith(NAME_PREFIX) for pod in pods)
        detail = f"accepted; {len(pods)} pods in the account, {ours} of them retrain's"
        yield Finding("runpod, key", ok=True, detail=detail)
    try:
        yield clock_finding("runpod, clock", datetime.now(UTC), account.api.now(), "RunPod")
    except PodError as error:
        yield failed("runpod, clock", error)
    offers: list[Offer] = []
    try:
        account.pods.check_wanted()
        offers = [*account.pods.offers()]
        yield _offered(offers, account.price_ceiling)
    except RetrainError as error:
        yield failed("runpod, GPUs", error)
    yield from _balance(account, offers)


def _offered(offers: list[Offer], ceiling: float | None) -> Finding:
    fitting = [offer for offer in offers if ceiling is None or offer.price_per_hour <= ceiling]
    if not fitting:
        detail = "no GPU type of runpod.gpus has a price here" if not offers else "all are above the ceiling"
        fix = "allow more runpod.gpus, clouds or data_centers, or raise budget.price_ceiling"
        return Finding("runpod, GPUs", ok=False, detail=detail, fix=fix)
    told = [
        f"{offer.name} {offer.location} ${offer.price_per_hour:.3f} an hour, stock {offer.stock}"
        for offer in fitting[:OFFERS_SHOWN]
    ]
    more = [f"{len(fitting) - OFFERS_SHOWN} more"] if len(fitting) > OFFERS_SHOWN else []
    detail = "; ".join([*told, *more])
    if all(offer.stock == Stock.NONE.value.lower() for offer in fitting):
        fix = "allow more runpod.gpus, clouds or data_centers, or come back later"
        return Finding("runpod, GPUs", ok=None, detail=f"none free now: {detail}", fix=fix)
    return Finding("runpod, GPUs", ok=True, detail=detail)


def _balance(account: Account, offers: list[Offer]) -> Iterator[Finding]:
    try:
        has = account.ask_balance()
    except PodError as error:
        ok = False if account.require_balance else None
        yield Finding("runpod, balance", ok=ok, detail=str(error), fix=error.next_step)
    else:
        yield _enough(has, account, offers)
    yield Finding(
        "runpod, auto-pay",
        ok=None,
        detail="cannot be seen from here",
        fix="a prepaid balance without auto-pay bounds what all failures together can cost",
    )


def _enough(has: Balance, account: Account, offers: list[Offer]) -> Finding:
    detail = f"${has.dollars:.2f} left; all pods of the account cost ${has.spend_per_hour:.2f} an hour now"
    hour = min((offer.price_per_hour for offer in offers), default=0.0) * HOURS_OF_BALANCE
    if has.dollars < hour or has.dollars <= 0:
        detail = f"{detail}; RunPod rents nothing that it does not pay for an hour"
        return Finding("runpod, balance", ok=False, detail=detail, fix=BILLING)
    if has.dollars < account.cap_dollars:
        detail = f"{detail}; a run that needs its whole cap of ${account.cap_dollars:.2f} would not finish"
        return Finding("runpod, balance", ok=None, detail=detail, fix=BILLING)
    return Finding("runpod, balance", ok=True, detail=detail)
