"""From settings to the provider of pods that they name. The one place that knows which there are."""

from launcher.errors import UsageError
from launcher.pods.process import ProcessPods, machine_id
from launcher.ports import Pods
from launcher.settings import Provider, Settings


def pods_of(settings: Settings) -> Pods:
    """Return the configured provider. Raises UsageError when it cannot be used as configured."""
    match settings.run.provider:
        case Provider.PROCESS:
            return ProcessPods(
                settings.run.workspace.resolve() / "pods",
                place=machine_id(),
                price_per_hour=settings.budget.local_price_per_hour,
            )
        case Provider.DOCKER | Provider.RUNPOD:
            raise UsageError(f"there is no provider {settings.run.provider.value} yet")
