"""How a pod ends itself, against the simulated provider and against a worse one. No real waiting."""

import io
import itertools
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from job import provider
from job.environment import OwnPod, own_pod
from job.provider import Api, Provider
from job.teardown import LINES_MAX, LONGEST_WAIT_SECONDS, Teardown, Voice, tell
from tests.simulators.asking import rent
from tests.simulators.runpod import FakeClock, KeyRights, Misfortune, Operation, Pod, Simulator, Trouble

API = "https://api.runpod.io"
KEY = "rpa_planted_key_of_the_pod"
OWN = OwnPod("pod-1", SecretStr(KEY), API)
Handler = Callable[[httpx.Request], httpx.Response]
BROKEN_SECONDS = 20


class Night:
    """A rented pod in a simulated account, and what ends it."""

    def __init__(self, cloud: Simulator, misfortune: Misfortune | None = None) -> None:
        cloud.faults.every_pod = misfortune or Misfortune()
        head = {"Authorization": f"Bearer {cloud.account_key}", "User-Agent": "tests/1"}
        with httpx.Client(base_url=API, headers=head, transport=cloud.transport()) as api:
            rent(api)
        self.cloud = cloud
        self.said: list[str] = []
        self.waited = 0.0
        cloud.advance(60)
        own = OwnPod(self.pod.pod_id, SecretStr(self.pod.key), API)
        self.provider = Provider(own, lambda trust_env: httpx.Client(transport=cloud.transport()))
        self._asking = Teardown(self.provider, say=self.said.append).asking()

    @property
    def pod(self) -> Pod:
        return self.cloud.pods[0]

    def wait(self, seconds: float) -> bool:
        """Let the pod ask for so long, or until it is gone; return whether it is."""
        until = self.waited + seconds
        while self.waited < until:
            step = next(self._asking)
            if not self.pod.exists:
                return True
            self.waited += step
            self.cloud.advance(step)
        return False

    def asked(self, operation: Operation) -> int:
        return sum(record.operation is operation and record.by_pod for record in self.cloud.records)


@pytest.fixture
def cloud() -> Iterator[Simulator]:
    with Simulator(FakeClock()) as simulator:
        yield simulator


def against(handler: Handler, own: OwnPod = OWN) -> Provider:
    return Provider(own, lambda trust_env: httpx.Client(transport=httpx.MockTransport(handler)))


@pytest.mark.parametrize("rights", [KeyRights.BOTH, KeyRights.V2, KeyRights.GRAPHQL])
def test_the_key_is_enough_wherever_it_is_accepted(cloud: Simulator, rights: KeyRights) -> None:
    night = Night(cloud, Misfortune(key_rights=rights))
    assert night.wait(0.1)
    assert night.pod.ended_by == "itself"
    assert night.asked(Operation.GRAPHQL_TERMINATE) == (rights is KeyRights.GRAPHQL), "only after v2"


def test_a_key_that_is_accepted_nowhere_is_tried_for_ever(cloud: Simulator) -> None:
    night, hours = Night(cloud, Misfortune(key_rights=KeyRights.NOWHERE)), 6
    assert not night.wait(hours * 3600)
    for operation in (Operation.DELETE, Operation.GRAPHQL_TERMINATE):
        assert 60 * hours <= night.asked(operation) <= 130 * hours, "at least once a minute"
    assert len(night.said) == 2, "the same refusal is told once"
    cloud.faults.conditions.pod_key_rights = KeyRights.BOTH
    night.pod.misfortune = Misfortune()
    assert night.wait(LONGEST_WAIT_SECONDS + 1)


def test_both_refuse_for_an_hour(cloud: Simulator) -> None:
    night = Night(cloud)
    cloud.refuse_terminations(cloud.now() + timedelta(hours=1))
    assert night.wait(3600 + LONGEST_WAIT_SECONDS)
    assert night.waited > 3500


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("trouble", Trouble)
def test_every_odd_answer_is_outlived(cloud: Simulator, trouble: Trouble, after_effect: bool) -> None:
    night = Night(cloud)
    cloud.trouble(trouble, *ENDS, times=6, after_effect=after_effect)
    assert night.wait(300)
    assert not [line for line in night.said if night.pod.key in line]


ENDS = (Operation.DELETE, Operation.GRAPHQL_TERMINATE)
HARDSHIP = st.tuples(st.sampled_from(Trouble), st.sampled_from([ENDS, ENDS[:1], ENDS[1:]]), st.integers(1, 4))


@given(hardships=st.lists(HARDSHIP, max_size=8), rights=st.sampled_from(list(KeyRights)[:3]))
@settings(max_examples=100, deadline=None)
def test_whatever_went_wrong_before_the_pod_is_ended_soon_after(
    hardships: list[tuple[Trouble, tuple[Operation, ...], int]], rights: KeyRights
) -> None:
    """A trouble of one API may last while the other refuses: each round outlives one of them at least."""
    with Simulator(FakeClock()) as cloud:
        night = Night(cloud, Misfortune(key_rights=rights))
        for trouble, operations, times in hardships:
            cloud.trouble(trouble, *operations, times=times)
        rounds = sum(times for _, _, times in hardships) + 1
        assert night.wait(2 * rounds * LONGEST_WAIT_SECONDS)
        assert not [line for line in night.said if night.pod.key in line]


def test_an_acknowledgement_is_no_end(cloud: Simulator) -> None:
    """The provider says yes and ends nothing: the pod goes on asking, by both ways, slowly."""
    seen: list[str] = []

    def yes(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        return httpx.Response(200, json={"data": {"podTerminate": None}})

    said: list[str] = []
    waits = list(itertools.islice(Teardown(against(yes), say=said.append).asking(), 60))
    assert seen[:4] == ["DELETE", "POST", "DELETE", "POST"]
    assert sum(waits) > len(seen) * LONGEST_WAIT_SECONDS / 4
    assert all("acknowledged" in line for line in said) and len(said) == 2


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b'{"data": []}', b'{"data": {}}', b'{"data": null, "errors": 1}', b"\xff",
     b"[" * 100_000, b'{"data": {"podTerminate": null}, "errors": [{"message": "no"}]}', b"x" * 3_000_000],
    ids=range(11),
)  # fmt: skip
def test_only_a_plain_answer_of_graphql_is_a_yes(body: bytes) -> None:
    said = against(lambda request: httpx.Response(200, content=body)).terminate(Api.GRAPHQL)
    assert not said.yes and said.answered


def test_what_is_sent(cloud: Simulator) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(403)

    one = against(answer, OwnPod('a"/../b', SecretStr(KEY), "https://elsewhere.example/x"))
    assert not any(one.terminate(api).yes for api in Api)
    by_v2, by_graph = seen
    assert by_v2.method == "DELETE"
    assert str(by_v2.url) == "https://elsewhere.example/x/v2/pods/a%22%2F..%2Fb"
    assert str(by_graph.url) == "https://elsewhere.example/x/graphql"
    assert b'podId: \\"a\\\\\\"/../b\\"' in by_graph.read()
    for request in seen:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        assert request.headers["User-Agent"].startswith("retrain-job/")


@pytest.mark.parametrize("key", ["rpa_ключ", "rpa_a\nb", "rpa_\x00"])
def test_a_key_that_cannot_be_sent_is_no_end_of_trying(key: str) -> None:
    odd = Provider(OwnPod("pod-1", SecretStr(key), "http://127.0.0.1:1"))
    assert not any(odd.terminate(api).yes for api in Api)
    assert key not in str([odd.terminate(api) for api in Api]) + repr(odd.look())


def test_errors_are_told_by_their_type_alone() -> None:
    """Whatever a library quotes of the request, the key is not shown."""

    def quote(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError(f"illegal header {request.headers['Authorization']}", request=request)

    quoting, said = against(quote), list[str]()
    assert len(list(itertools.islice(Teardown(quoting, say=said.append).asking(), 3))) == 3
    told = f"{said} {quoting.look()}"
    assert "no answer (LocalProtocolError)" in told and KEY not in told


def test_without_a_key_nothing_is_asked_and_nothing_ends() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise AssertionError("asked without a key")

    alone = against(refuse, OwnPod("pod-1", SecretStr(""), API))
    said: list[str] = []
    waits = list(itertools.islice(Teardown(alone, say=said.append).asking(), 100))
    assert sum(waits) >= 100 * LONGEST_WAIT_SECONDS and len(said) == 1
    assert alone.look() == {"own_key": "not set"}


def test_what_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that never returns is beyond every time-out of httpx."""
    monkeypatch.setattr(provider, "ANSWER_SECONDS", 0.2)
    released = threading.Event()

    def resolve(*_: object, **__: object) -> list[object]:
        released.wait(5)
        raise socket.gaierror("released")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    hanging = Provider(OwnPod("pod-1", SecretStr(KEY), "http://does.not.matter"))
    said: list[str] = []
    waits = list(itertools.islice(Teardown(hanging, say=said.append).asking(), 3))
    released.set()
    assert len(waits) == 3
    assert said == [
        f"asked RunPod to end this pod ({api}); not ended: no answer within 0.2 seconds" for api in Api
    ]


def test_without_threads_it_asks_all_the_same(cloud: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    night = Night(cloud)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert night.wait(0.1)


def test_where_nobody_answers_the_environments_way_is_tried_too() -> None:
    ways: list[bool] = []

    def client(trust_env: bool) -> httpx.Client:
        ways.append(trust_env)

        def answer(request: httpx.Request) -> httpx.Response:
            if trust_env:
                return httpx.Response(403)
            raise httpx.ConnectError("no way out but the proxy's")

        return httpx.Client(transport=httpx.MockTransport(answer))

    asking = Teardown(Provider(OWN, client), say=lambda text: None).asking()
    assert len(list(itertools.islice(asking, 4))) == 4
    assert ways == [False, False, True, True, False, False, True, True], "two requests a round"


def test_nothing_that_is_raised_ends_it() -> None:
    """Neither what asking raises nor what waiting does; and who comes second waits."""
    asked, dormant = threading.Semaphore(0), threading.Event()
    raised: list[type[BaseException]] = [MemoryError, KeyboardInterrupt, SystemExit, OSError, GeneratorExit]
    left = list(raised)

    def sleep(seconds: float) -> None:
        if left:
            raise left.pop()("on purpose")
        asked.release()
        dormant.wait()

    def say(text: str) -> None:
        raise OSError("no space left on device")

    teardown = Teardown(against(lambda request: httpx.Response(403)), say=say, sleep=sleep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("job.teardown.AFTER_ERROR_SECONDS", 0)
        threads = [threading.Thread(target=teardown.end, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert asked.acquire(timeout=BROKEN_SECONDS) and asked.acquire(timeout=BROKEN_SECONDS)
    assert not left and all(thread.is_alive() for thread in threads)


def test_a_voice_that_nobody_hears_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            tried.set()
            return threading.Semaphore(0).acquire()

    monkeypatch.setattr(sys, "stderr", Full())
    voice = Voice()
    for number in range(3 * LINES_MAX):
        voice(f"line {number}")
    assert tried.wait(BROKEN_SECONDS)


def test_no_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stderr in (None, closed):
        monkeypatch.setattr(sys, "stderr", stderr)
        tell("nobody is there")


def test_looking_tells_what_the_key_sees(cloud: Simulator) -> None:
    night, seen = Night(cloud), {}
    for rights in KeyRights:
        cloud.faults.conditions.pod_key_rights = rights
        seen[rights] = night.provider.look()
    assert night.pod.exists and not night.asked(Operation.DELETE), "looking ends nothing"
    good, bad = "sees its pod", "HTTP 200 with another answer"
    assert seen[KeyRights.BOTH] == {"own_key_v2": good, "own_key_graphql": good}
    assert seen[KeyRights.V2] == {"own_key_v2": good, "own_key_graphql": bad}
    assert seen[KeyRights.GRAPHQL] == {"own_key_v2": "HTTP 403", "own_key_graphql": good}
    assert seen[KeyRights.NOWHERE] == {"own_key_v2": "HTTP 403", "own_key_graphql": bad}


def test_who_has_to_end_itself() -> None:
    runpod = {"RUNPOD_POD_ID": "abc", "RUNPOD_API_KEY": f"{KEY}\n"}
    found = own_pod(runpod)
    assert found == OwnPod("abc", SecretStr(KEY), API) and KEY not in repr(found)
    assert own_pod({"RUNPOD_POD_ID": "abc"}) == OwnPod("abc", SecretStr(""), API)
    moved = own_pod({**runpod, "RUNPOD_API_BASE_URL": "http://127.0.0.1:1/"})
    assert moved is not None and moved.api == "http://127.0.0.1:1"
    odd = own_pod({**runpod, "RUNPOD_API_BASE_URL": "not a url"})
    assert odd is not None and odd.api == API
    assert own_pod({"RETRAIN_POD_ID": "a"}) is None
    # A pod of another provider on a machine that is itself rented: that machine is not ours to end.
    assert own_pod({**runpod, "RETRAIN_POD_ID": "a"}) is None
