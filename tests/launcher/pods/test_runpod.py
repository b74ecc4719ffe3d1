"""RunPod as a provider: which offers, which requests, and what is made of the answers. At the simulator."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from pydantic import SecretStr

from launcher.errors import AccountRefused, CapacityError, CreateRefused, PodError, UsageError
from launcher.pods.runpod import RunpodPods, Wanted
from launcher.pods.runpod_account import Balance
from launcher.pods.runpod_api import RunpodApi
from launcher.pods.runpod_models import Cloud
from launcher.ports import Offer, Pod, PodSpec, PodState
from tests.launcher.pods.runpod_script import LINK, Naps
from tests.simulators.runpod import FakeClock, Misfortune, Operation, Simulator, Status, Trouble
from tests.simulators.runpod.catalog import Gpu
from tests.simulators.runpod.transport import Transport
from tests.simulators.runpod.wire import pod_document

A40, A6000, L40S = "NVIDIA A40", "NVIDIA RTX A6000", "NVIDIA L40S"
NAME = "retrain-default-run-1-1-1767229200"
SPEC = PodSpec(NAME, Offer(A40, 0.49, "SECURE"), {"LINK": LINK}, "image:1", 40)
AN_A40 = Wanted((A40,))


class Heard(httpx.BaseTransport):
    """Keeps every request."""

    def __init__(self, transport: Transport) -> None:
        self.requests: list[httpx.Request] = []
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._transport.handle_request(request)


class Account:
    """An account and a client of it."""

    def __init__(self, cloud: Simulator) -> None:
        self.cloud = cloud
        self.clock = Naps()
        self.heard = Heard(cloud.transport())

    def pods(self, wanted: Wanted = AN_A40, balance: Callable[[], Balance] | None = None) -> RunpodPods:
        api = RunpodApi(SecretStr(self.cloud.account_key), clock=self.clock, transport=self.heard)
        return RunpodPods(api, wanted, self.clock, balance=balance)

    def states(self, *seconds: float) -> list[PodState]:
        """Rent a pod and return its state after each further stretch of time."""
        pods = self.pods()
        pod_id = pods.create(SPEC).pod_id
        found = []
        for each in seconds:
            self.cloud.advance(each)
            seen = pods.get(pod_id)
            assert seen is not None
            found.append(seen.state)
        return found

    def show_as(self, pod: Pod, status: str) -> None:
        """Let the next look at a pod show another status, which the simulator itself never tells there."""
        shown = pod_document(self.cloud.world.pods[pod.pod_id], self.cloud.now())
        fault = self.cloud.trouble(Trouble.MALFORMED, Operation.GET)
        fault.body = json.dumps({**shown, "status": status}).encode()


@pytest.fixture
def account() -> Iterator[Account]:
    with Simulator(FakeClock()) as cloud:
        yield Account(cloud)


def has(dollars: float) -> Callable[[], Balance]:
    return lambda: Balance(dollars, 0.0)


# Offers.


def test_offers_come_in_the_order_of_what_is_wanted(account: Account) -> None:
    wanted = Wanted((L40S, A40), clouds=(Cloud.COMMUNITY, Cloud.SECURE))
    assert account.pods(wanted).offers() == [
        Offer(L40S, 0.79, "COMMUNITY", "high"),
        Offer(L40S, 1.09, "SECURE", "high"),
        Offer(A40, 0.49, "SECURE", "high"),
    ]


def test_what_is_out_of_stock_comes_last(account: Account) -> None:
    account.cloud.catalog.set_stock(0, gpu_id=A40)
    account.cloud.catalog.set_stock(1, gpu_id=A6000)
    offers = account.pods(Wanted((A40, A6000, L40S))).offers()
    assert [(offer.name, offer.stock) for offer in offers] == [(A6000, "low"), (L40S, "high"), (A40, "none")]


def test_data_centers_are_offered_one_by_one_with_their_own_stock(account: Account) -> None:
    account.cloud.catalog.set_stock(1, gpu_id=A40, data_center="EU-SE-1")
    offers = account.pods(Wanted((A40,), data_centers=("EU-SE-1", "US-KS-2", "MOON-1"))).offers()
    assert [(offer.location, offer.stock) for offer in offers] == [
        ("SECURE EU-SE-1", "low"),
        ("SECURE US-KS-2", "high"),
    ]


@pytest.mark.parametrize("price", [0.0, None])
def test_a_price_that_is_not_known_is_no_offer(account: Account, price: float | None) -> None:
    account.cloud.catalog.gpus[A40] = Gpu(A40, 48, price)
    assert [offer.name for offer in account.pods(Wanted((A40, A6000))).offers()] == [A6000]


def test_a_cuda_version_is_asked_for_in_the_catalog_too(account: Account) -> None:
    account.pods(Wanted((A40,), min_cuda_version="12.8")).offers()
    assert account.heard.requests[-1].url.params["minCudaVersion"] == "12.8"


def test_prices_that_are_not_told_are_no_offers_but_an_error(account: Account) -> None:
    account.cloud.trouble(Trouble.MALFORMED, Operation.GPUS, times=None)
    with pytest.raises(PodError):
        account.pods().offers()


def test_an_offer_whose_hour_the_balance_does_not_pay_is_left_out(account: Account) -> None:
    pods = account.pods(Wanted((L40S, A40)), has(0.5))
    assert [offer.name for offer in pods.offers()] == [A40]


def test_a_balance_that_pays_for_nothing_wanted_is_said(account: Account) -> None:
    with pytest.raises(PodError, match=r"balance of \$0\.20") as caught:
        account.pods(Wanted((L40S, A40)), has(0.2)).offers()
    assert "add credit" in caught.value.next_step


def test_an_unreadable_balance_is_not_taken_for_enough(account: Account) -> None:
    def unreadable() -> Balance:
        raise PodError("RunPod did not tell the account's balance")

    with pytest.raises(PodError, match="did not tell"):
        account.pods(balance=unreadable).offers()


def test_a_balance_is_read_once_a_minute_and_after_every_create(account: Account) -> None:
    asked: list[float] = []

    def balance() -> Balance:
        asked.append(account.clock.now)
        return Balance(100.0, 0.0)

    pods = account.pods(balance=balance)
    pods.offers()
    account.clock.now = 60.0
    pods.offers()
    account.clock.now = 60.1
    pods.offers()
    pods.create(SPEC)
    pods.offers()
    assert asked == [0.0, 60.1, 60.1]


def test_gpu_types_are_checked_by_name(account: Account) -> None:
    account.pods(Wanted((A40, L40S))).check_wanted()
    with pytest.raises(UsageError, match=r"no GPU type 'NVIDIA A4O'; is it 'NVIDIA A40'\?"):
        account.pods(Wanted((A40, "NVIDIA A4O"))).check_wanted()
    account.cloud.trouble(Trouble.BAD_GATEWAY, Operation.GPUS, times=None)
    with pytest.raises(PodError):
        account.pods().check_wanted()


# A request for a pod.


def test_what_is_asked_for_on_the_wire(account: Account) -> None:
    wanted = Wanted((A40,), clouds=(Cloud.SECURE,), min_cuda_version="12.4", registry="cred-1")
    spec = dataclasses.replace(SPEC, offer=Offer(L40S, 0.79, "COMMUNITY US-KS-2"))
    made = account.pods(wanted).create(spec)
    request = account.heard.requests[-1]
    assert (request.method, request.url.path) == ("POST", "/v2/pods")
    assert json.loads(request.content) == {
        "name": SPEC.name,
        "image": "image:1",
        "gpu": {"id": L40S, "count": 1, "minCudaVersion": "12.4"},
        "cloud": "COMMUNITY",
        "disk": 40,
        "env": {"LINK": LINK},
        "ports": [],
        "registry": "cred-1",
        "dataCenterIds": ["US-KS-2"],
    }
    assert request.headers["user-agent"].startswith("retrain/")
    pod = account.cloud.existing[0]
    assert made == Pod(
        pod.pod_id, SPEC.name, PodState.STARTING, pod.created_at, 0.79, "https://console.runpod.io/pods"
    )


def test_without_wishes_nothing_is_sent_for_them(account: Account) -> None:
    account.pods().create(SPEC)
    sent = json.loads(account.heard.requests[-1].content)
    assert sent["gpu"] == {"id": A40, "count": 1} and "registry" not in sent
    assert (sent["cloud"], sent["dataCenterIds"]) == ("SECURE", [])


@pytest.mark.parametrize(
    ("trouble", "error", "not_this"),
    [
        (Trouble.NO_CAPACITY, CapacityError, AccountRefused),
        (Trouble.FORBIDDEN, CapacityError, AccountRefused),
        (Trouble.RATE_LIMITED, CapacityError, AccountRefused),
        (Trouble.UNAUTHORIZED, AccountRefused, CapacityError),
        (Trouble.NO_BALANCE, AccountRefused, CapacityError),
        (Trouble.BAD_REQUEST, CreateRefused, (CapacityError, AccountRefused)),
        (Trouble.SERVER_ERROR, PodError, CreateRefused),
        (Trouble.BAD_GATEWAY, PodError, CreateRefused),
        (Trouble.TIMEOUT, PodError, CreateRefused),
        (Trouble.DISCONNECT, PodError, CreateRefused),
        (Trouble.CLOUDFLARE, PodError, CreateRefused),
        (Trouble.NOT_FOUND, PodError, CreateRefused),
        (Trouble.CONFLICT, PodError, CreateRefused),
        (Trouble.TRUNCATED, PodError, CreateRefused),
        (Trouble.MALFORMED, PodError, CreateRefused),
    ],
)
def test_what_a_failed_request_proves(
    account: Account, trouble: Trouble, error: type[PodError], not_this: type[PodError]
) -> None:
    """And none of them is sent twice, or shows the link that it carries."""
    account.cloud.trouble(trouble, Operation.CREATE, times=None)
    with pytest.raises(error) as caught:
        account.pods().create(SPEC)
    assert not isinstance(caught.value, not_this)
    assert len(account.heard.requests) == 1
    assert LINK not in f"{caught.value} {caught.value.next_step} {caught.value!r}"


# Pods that exist.


def test_states_as_a_pod_comes_up(account: Account) -> None:
    assert account.states(0, 5, 19, 1) == [
        PodState.STARTING,
        PodState.STARTING,
        PodState.STARTING,
        PodState.RUNNING,
    ]


def test_running_without_a_runtime_is_still_starting(account: Account) -> None:
    account.cloud.faults.next_pods.append(Misfortune(never_ready=True))
    assert account.states(25, 3600) == [PodState.STARTING, PodState.STARTING]
    assert account.cloud.existing[0].status is Status.RUNNING


@pytest.mark.parametrize("leaves", [Status.EXITED, Status.ERROR])
def test_a_pod_whose_host_failed_has_ended_and_exists(account: Account, leaves: Status) -> None:
    account.cloud.faults.next_pods.append(Misfortune(host_kill_after=10, host_kill_leaves=leaves))
    assert account.states(30, 10) == [PodState.RUNNING, PodState.ENDED]
    assert len(account.pods().list()) == 1


def test_terminated_is_gone_wherever_it_shows(account: Account) -> None:
    account.cloud.faults.conditions.list_linger_seconds = 600
    pods = account.pods()
    made = pods.create(SPEC)
    assert pods.terminate(made.pod_id)
    assert "TERMINATED" in account.cloud.pods[0].status.value
    assert pods.list() == pods.find(SPEC.name) == []
    assert pods.get(made.pod_id) is None


def test_a_pod_shown_as_terminated_by_its_id_is_gone(account: Account) -> None:
    pods = account.pods()
    made = pods.create(SPEC)
    account.show_as(made, "TERMINATED")
    assert pods.get(made.pod_id) is None


def test_an_unknown_status_exists_and_bills(account: Account) -> None:
    pods = account.pods()
    made = pods.create(SPEC)
    account.show_as(made, "HIBERNATING")
    seen = pods.get(made.pod_id)
    assert seen is not None and seen.state is PodState.STARTING


def test_only_names_of_ours_are_listed(account: Account) -> None:
    pods = account.pods()
    account.cloud.add_stranger("their-training")
    account.cloud.add_stranger("my-retrain-default-x")
    made = pods.create(SPEC)
    assert [pod.pod_id for pod in pods.list()] == [made.pod_id]
    assert [pod.pod_id for pod in pods.find(SPEC.name)] == [made.pod_id]
    assert pods.find("retrain-default-run-2-1-1767229200") == []


def test_two_pods_of_one_name_are_both_found(account: Account) -> None:
    pods = account.pods()
    ids = [pods.create(SPEC).pod_id for _ in range(2)]
    assert [pod.pod_id for pod in pods.find(SPEC.name)] == ids


@pytest.mark.parametrize(
    "trouble", [Trouble.MALFORMED, Trouble.TRUNCATED, Trouble.BAD_GATEWAY, Trouble.FORBIDDEN]
)
def test_a_list_that_cannot_be_read_is_no_empty_list(account: Account, trouble: Trouble) -> None:
    account.cloud.trouble(trouble, Operation.LIST, times=None)
    for ask in (account.pods().list, lambda: account.pods().find(SPEC.name)):
        with pytest.raises(PodError):
            ask()


def test_a_pod_that_is_not_known_is_none_and_an_error_is_an_error(account: Account) -> None:
    pods = account.pods()
    assert pods.get("nobody") is None
    account.cloud.trouble(Trouble.BAD_GATEWAY, Operation.GET, times=None)
    with pytest.raises(PodError):
        pods.get("nobody")


def test_an_end_is_acknowledged_also_of_a_pod_that_is_not_known(account: Account) -> None:
    """Neither proves that it is gone: a young pod may not be known yet."""
    account.cloud.faults.conditions.get_lag_seconds = 60
    pods = account.pods()
    made = pods.create(SPEC)
    assert pods.terminate(made.pod_id)
    assert account.cloud.existing
    account.cloud.advance(61)
    assert pods.terminate(made.pod_id)
    assert not account.cloud.existing


@pytest.mark.parametrize(
    "trouble", [Trouble.CONFLICT, Trouble.FORBIDDEN, Trouble.SERVER_ERROR, Trouble.TIMEOUT]
)
def test_an_end_that_was_refused_or_not_answered_raises(account: Account, trouble: Trouble) -> None:
    pods = account.pods()
    made = pods.create(SPEC)
    account.cloud.trouble(trouble, Operation.DELETE)
    with pytest.raises(PodError):
        pods.terminate(made.pod_id)
    deletes = [request for request in account.heard.requests if request.method == "DELETE"]
    assert len(deletes) == 1


# Logs and time.


def test_logs_are_the_jobs_and_the_boot_log_is_the_hosts(account: Account) -> None:
    pods = account.pods()
    made = pods.create(SPEC)
    assert pods.boot_log(made.pod_id) == f"create pod network for {made.pod_id}"
    account.cloud.advance(30)
    assert pods.boot_log(made.pod_id).startswith("start container image:1")
    for number in range(5):
        account.cloud.pods[0].say("container", f"line {number}", account.cloud.now())
    assert pods.logs(made.pod_id, tail=2) == ["line 3", "line 4"]
    assert pods.boot_log(made.pod_id).startswith("start container image:1")


def test_time_is_runpods(account: Account) -> None:
    pods = account.pods()
    began = pods.now()
    assert began == account.cloud.now()
    account.clock.now += 90.0  # nothing is asked meanwhile: its newest answer's time goes on
    assert (pods.now() - began).total_seconds() == 90.0


def test_no_key_in_anything_that_can_be_printed(account: Account) -> None:
    pods = account.pods()
    account.cloud.trouble(Trouble.UNAUTHORIZED, times=None)
    for ask in (pods.offers, pods.list, lambda: pods.create(SPEC), lambda: pods.terminate("x")):
        with pytest.raises(PodError) as caught:
            ask()
        told = f"{caught.value} {caught.value!r} {caught.value.next_step} {pods!r} {vars(pods)!r}"
        assert not re.search(r"rpa_\w+", told), told
