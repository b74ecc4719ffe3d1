"""From settings to what a run is asked to do."""

from launcher.plan import run_spec
from launcher.settings import Settings
from launcher.settings.model import Clocks, Provider, Run
from launcher.settings.pods import Pod


def test_a_rented_pod_gets_its_image_and_disk_and_the_providers_lag() -> None:
    settings = Settings(
        run=Run(provider=Provider.RUNPOD), pod=Pod(image="reg/image", disk_gb=7), clocks=Clocks(create_lag=33)
    )
    spec = run_spec(settings, [], None, place="")
    assert (spec.image, spec.disk_gb, spec.clocks.create_lag_seconds) == ("reg/image", 7, 33)


def test_a_process_of_this_machine_is_listed_at_once() -> None:
    assert run_spec(Settings(), [], None, place="here").clocks.create_lag_seconds == 1
