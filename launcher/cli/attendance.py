"""A start that nobody watches is refused unless something proves that its pod ends all the same."""

import os
from datetime import timedelta

from launcher.cli.providers import runpod_fingerprint
from launcher.ending.unattended import Demand, is_ci, require_proof
from launcher.ports import Notifier, Store
from launcher.settings import Provider, Settings


def demand_of(settings: Settings) -> Demand:
    """Return what counts as proof by these settings. Raises UsageError where there is no key for RunPod."""
    return Demand(
        namespace=settings.run.namespace,
        account=runpod_fingerprint(settings),
        image=settings.pod.image,
        canary_age=timedelta(days=settings.runpod.canary_days),
        reaper_age=timedelta(minutes=settings.runpod.reaper_minutes),
    )


def require_watched(
    settings: Settings, store: Store, notifier: Notifier, *, detach: bool, accept_risk: bool
) -> None:
    """Refuse a start that is detached, or made by CI, of a pod that costs, unless its end is proven.

    Raises UsageError with what is missing, StorageError.
    """
    if settings.run.provider is not Provider.RUNPOD or not (detach or is_ci(os.environ)):
        return
    if accept_risk:
        notifier.say("nobody watches this run, and whether its pod ends by itself is taken on trust")
        return
    notifier.say(require_proof(store, demand_of(settings)))
