"""RunPod's bill, through the provider's port: lags behind, then is what the simulator's books say."""

from datetime import timedelta

import pytest
from pydantic import SecretStr

from launcher.clock import SystemClock
from launcher.pods.runpod import RunpodPods, Wanted
from launcher.pods.runpod_api import RunpodApi
from launcher.ports import PodSpec
from tests.simulators.asking import A40
from tests.simulators.runpod import Simulator


def test_a_bill_lags_behind_and_then_is_what_was_charged(cloud: Simulator) -> None:
    clock = SystemClock()
    key = SecretStr(cloud.account_key)
    api = RunpodApi(key, base_url="https://runpod.test/v2", clock=clock, transport=cloud.transport())
    pods = RunpodPods(api, Wanted(gpus=(A40,)), clock)
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
    assert late == pytest.approx(cloud.spent(pod.pod_id)) == pytest.approx(0.49 * 4000 / 3600)
