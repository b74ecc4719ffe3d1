"""RunPod's bill, through the provider's port: lags behind, then is what the simulator's books say."""

from datetime import timedelta

import pytest
from pydantic import SecretStr

from launcher.cli.providers import pods_of
from launcher.machine.clock import SystemClock
from launcher.pods.runpod import RunpodPods, Wanted
from launcher.pods.runpod_api import RunpodApi
from launcher.ports import PodSpec
from launcher.settings import Settings
from launcher.settings.model import Provider, Run
from launcher.settings.pods import Pod, Runpod
from tests.simulators.asking import A40
from tests.simulators.runpod import Simulator
from tests.simulators.runpod.ledger import HOURS_PER_MONTH


def test_a_bill_lags_behind_and_then_is_what_was_charged(cloud: Simulator) -> None:
    clock = SystemClock()
    key = SecretStr(cloud.account_key)
    api = RunpodApi(key, base_url="https://runpod.test/v2", clock=clock, transport=cloud.transport())
    pods = RunpodPods(api, Wanted(gpus=(A40,), disk_gb=40), clock)
    (offer,) = pods.offers()
    pod = pods.create(PodSpec("retrain-a", offer, {}, image="registry/image:1", disk_gb=40))
    other = pods.create(PodSpec("retrain-b", offer, {}, image="registry/image:1", disk_gb=40))
    cloud.advance(4000)
    assert pods.terminate(pod.pod_id) and pods.terminate(other.pod_id)
    gone_at = pod.created_at + timedelta(seconds=4000)
    early = pods.billed(pod.pod_id, since=pod.created_at, until=gone_at)
    cloud.advance(600)
    late = pods.billed(pod.pod_id, since=pod.created_at, until=gone_at)
    assert early is not None and late is not None and early < late
    assert late == pytest.approx(cloud.spent(pod.pod_id))
    assert late == pytest.approx((0.49 + 40 * 0.10 / HOURS_PER_MONTH) * 4000 / 3600)


@pytest.mark.parametrize("disk_gb", [40, 2000])
def test_the_price_of_an_offer_bounds_the_bill_with_the_disk_on_it(
    cloud: Simulator, monkeypatch: pytest.MonkeyPatch, disk_gb: int
) -> None:
    monkeypatch.setenv("RUNPOD_API_BASE_URL", cloud.serve())
    monkeypatch.setenv("RUNPOD_API_KEY", cloud.account_key)
    settings = Settings(
        run=Run(provider=Provider.RUNPOD), runpod=Runpod(gpus=(A40,)), pod=Pod(image="i:1", disk_gb=disk_gb)
    )
    pods = pods_of(settings)
    (offer,) = pods.offers()
    pod = pods.create(PodSpec("retrain-a", offer, {}, image="i:1", disk_gb=disk_gb))
    assert pod.price_per_hour <= offer.price_per_hour
    cloud.advance(8 * 3600)
    pods.terminate(pod.pod_id)
    assert cloud.spent() <= 8 * offer.price_per_hour
    assert cloud.spent() == pytest.approx(8 * offer.price_per_hour, rel=0.02)
