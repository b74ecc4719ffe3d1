"""From settings to the provider of pods that they name. The one place that knows which there are."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import SecretStr

from launcher.ending.unattended import fingerprint
from launcher.errors import UsageError
from launcher.machine.clock import SystemClock
from launcher.machine.loopback import is_loopback
from launcher.pods.process import ProcessPods, machine_id
from launcher.ports import Pods
from launcher.settings import Provider, Settings
from launcher.settings.model import Storage

if TYPE_CHECKING:
    from launcher.pods.docker import DockerPods
    from launcher.pods.runpod import Wanted
    from launcher.pods.runpod_account import Balance
    from launcher.pods.runpod_api import RunpodApi
    from launcher.pods.runpod_checkup import Account

RUNPOD_KEY_VARIABLE = "RUNPOD_API_KEY"


def pods_of(settings: Settings) -> Pods:
    """Return the configured provider. Raises UsageError when it cannot be used as configured."""
    match settings.run.provider:
        case Provider.PROCESS:
            return ProcessPods(
                settings.run.workspace.resolve() / "pods",
                place=machine_id(),
                price_per_hour=settings.budget.local_price_per_hour,
            )
        case Provider.RUNPOD:
            return _runpod(settings)
        case Provider.DOCKER:
            return docker_pods(settings)


def require_startable(settings: Settings) -> None:
    """Raise UsageError when no pod of the configured provider could do any work, before anything is done."""
    if settings.run.provider is Provider.PROCESS:
        return
    if not settings.pod.image:
        raise UsageError(
            f"provider {settings.run.provider.value} needs a training image",
            next_step="set pod.image to it, best with its digest: registry/name@sha256:...",
        )
    if settings.run.provider is not Provider.RUNPOD:
        return
    if settings.storage.bucket is None:
        raise UsageError(
            "a pod at RunPod cannot reach a store on this machine, and no bucket is configured",
            next_step="set storage.bucket and its keys; docs/storage.md says which stores do",
        )
    from launcher.pods.runpod_client import base_url

    endpoint = settings.storage.pod_endpoint_url or settings.storage.endpoint_url
    if endpoint is not None and is_loopback(endpoint) and not is_loopback(base_url()):
        raise UsageError(
            "a pod at RunPod cannot reach a store on this machine",
            next_step="set storage.pod_endpoint_url to the store's address as the internet sees it",
        )


def make_ready(settings: Settings, pods: Pods, say: Callable[[str], None]) -> None:
    """Do what a first pod needs and nothing is charged for, such as to pull an image, before a run begins.

    Raises UsageError or PodError when no pod of this provider could start, or not the one that is meant.
    """
    if settings.run.provider is Provider.DOCKER:
        from launcher.pods.docker import DockerPods

        assert isinstance(pods, DockerPods)
        pods.prepare(settings.pod.image, say)
    if settings.run.provider is Provider.RUNPOD:
        from launcher.pods.runpod import RunpodPods

        assert isinstance(pods, RunpodPods)
        pods.check_wanted()


def runpod_key(settings: Settings) -> SecretStr:
    """Return the key for RunPod: of the settings, of the environment, or what `runpod config` stored.

    Raises UsageError when there is none.
    """
    if settings.runpod.api_key is not None:
        return settings.runpod.api_key
    if os.environ.get(RUNPOD_KEY_VARIABLE):
        return SecretStr(os.environ[RUNPOD_KEY_VARIABLE])
    from launcher.pods.runpod_account import stored_key

    key = stored_key()
    if key is None:
        raise UsageError(
            "there is no API key for RunPod",
            next_step=f"make one in RunPod's console under Settings, API Keys, and set {RUNPOD_KEY_VARIABLE}",
        )
    return key


def runpod_fingerprint(settings: Settings) -> str:
    """Return what tells this key for RunPod from others. Raises UsageError when there is none."""
    return fingerprint(runpod_key(settings))


def docker_pods(settings: Settings) -> "DockerPods":
    """Return the provider of containers; its engine is not asked anything by that."""
    from launcher.pods.docker import DockerPods
    from launcher.pods.docker_engine import Engine
    from launcher.settings.pods import DockerGpus

    return DockerPods(
        Engine(),
        store_is_local=_is_local(settings.storage),
        gpus={DockerGpus.ALL: True, DockerGpus.NONE: False}.get(settings.docker.gpus),
        network=settings.docker.network,
        price_per_hour=settings.budget.local_price_per_hour,
    )


def _is_local(storage: Storage) -> bool:
    """Whether pods reach the store at this machine's loopback: the embedded one, or one configured so."""
    return storage.bucket is None or is_loopback(storage.pod_endpoint_url or storage.endpoint_url)


def _runpod(settings: Settings) -> Pods:
    from launcher.pods.runpod import RunpodPods

    api = runpod_api(runpod_key(settings))
    return RunpodPods(api, _wanted(settings), SystemClock(), balance=_balance_of(settings))


def _balance_of(settings: Settings) -> "Callable[[], Balance] | None":
    """Return what asks for the account's balance; None where pods may be rented without having seen it."""
    from launcher.pods.runpod_account import balance

    key = runpod_key(settings)
    return (lambda: balance(key)) if settings.runpod.require_balance else None


def runpod_api(key: SecretStr) -> "RunpodApi":
    """Return a client of RunPod's REST API."""
    from launcher.pods.runpod_api import RunpodApi
    from launcher.pods.runpod_client import base_url

    return RunpodApi(key, base_url=base_url(), clock=SystemClock())


def canary_pods(settings: Settings, api: "RunpodApi") -> Pods:
    """Return RunPod as a provider for a pod that needs no particular GPU: any type may be rented."""
    from launcher.pods.runpod import RunpodPods

    wanted = replace(_wanted(settings), gpus=())
    return RunpodPods(api, wanted, SystemClock(), balance=_balance_of(settings))


def runpod_account(settings: Settings) -> "Account":
    """Return what the checks of a RunPod account need. Raises UsageError where there is no key."""
    from launcher.pods.runpod import RunpodPods
    from launcher.pods.runpod_account import balance
    from launcher.pods.runpod_checkup import Account

    key = runpod_key(settings)
    api = runpod_api(key)
    return Account(
        api=api,
        pods=RunpodPods(api, _wanted(settings), SystemClock()),
        ask_balance=lambda: balance(key),
        require_balance=settings.runpod.require_balance,
        cap_dollars=settings.budget.cap_dollars,
        price_ceiling=settings.budget.price_ceiling,
    )


def _wanted(settings: Settings) -> "Wanted":
    from launcher.pods.runpod import Wanted
    from launcher.pods.runpod_models import Cloud
    from launcher.settings.pods import RunpodCloud

    rented = settings.runpod
    return Wanted(
        gpus=rented.gpus,
        clouds=tuple(
            Cloud.COMMUNITY if cloud is RunpodCloud.COMMUNITY else Cloud.SECURE for cloud in rented.clouds
        ),
        data_centers=rented.data_centers,
        min_cuda_version=rented.min_cuda_version,
        registry=rented.registry,
        disk_gb=settings.pod.disk_gb,
    )
