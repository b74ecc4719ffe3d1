"""Launchers with the real RunPod adapter, which may be killed around every request and after every record."""

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import httpx
from pydantic import SecretStr

from launcher.actions import World
from launcher.errors import PodError
from launcher.journal import Journal
from launcher.loop import Loop
from launcher.pods.runpod import RunpodPods, Wanted
from launcher.pods.runpod_account import Balance
from launcher.pods.runpod_api import RunpodApi
from launcher.ports import Clock, Pods, Store
from launcher.results.home import Home
from tests.crash.launchers import Killed, Port
from tests.crash.promises import RECORD

if TYPE_CHECKING:
    from tests.matrix.night import Night

POD_ID = re.compile(r"pods/[^/]+")
DISK_GB = 400
"""Of every pod. Billed beside its price: who forgets that is found out by a large one."""


class Wire(httpx.BaseTransport):
    """Requests on their way to the simulator. For an answer that never comes, time passes."""

    def __init__(self, night: "Night", clock: Clock, around: Callable[[str, Callable[[], Any]], Any]) -> None:
        """`around` is called with what is asked and how to ask it."""
        self._transport = night.cloud.transport()
        self._clock = clock
        self._around = around

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        pieces = request.url.path.split("/")
        what = (
            f"{request.method} /{'/'.join('*' if n == 3 else piece for n, piece in enumerate(pieces[1:], 1))}"
        )
        answer: httpx.Response = self._around(what, partial(self._send, request))
        return answer

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return self._transport.handle_request(request)
        except httpx.ReadTimeout:
            self._clock.sleep(request.extensions["timeout"]["read"])
            raise


def runpod(
    night: "Night", clock: Clock, around: Callable[[str, Callable[[], Any]], Any] = lambda _what, ask: ask()
) -> RunpodPods:
    """Return the provider as a process of its own reaches it."""
    api = RunpodApi(SecretStr(night.cloud.account_key), clock=clock, transport=Wire(night, clock, around))
    wanted = Wanted(gpus=night.gpus, data_centers=night.data_centers, disk_gb=DISK_GB)

    def balance() -> Balance:
        def ask() -> Balance:
            if night.balance_is_unreadable:
                raise PodError("RunPod did not tell the account's balance")
            return Balance(night.cloud.balance, 0.0)

        found: Balance = around("the balance", ask)
        return found

    return RunpodPods(api, wanted, clock, balance=balance)


class Launcher:
    """One process that drives the run, until it is killed at one of the points that it passes."""

    def __init__(self, night: "Night", number: int, *, dies_at: int | None = None) -> None:
        self.name = f"launcher-{number}"
        self.passed: list[str] = []
        """Every point so far: where it could have been killed."""
        self._night = night
        self._dies_at = dies_at
        self._dead = False
        store = cast(Store, Port(self, "store", night.store))
        pods = cast(Pods, Port(self, "provider", runpod(night, self, self._request)))
        home = Home(night.home.models_dir, night.home.workspace)
        self.loop = Loop(World(store, pods, self, night.notes, home), Journal(store, self.name))

    def effect(self, side: str, name: str, call: Callable[[], Any], arguments: tuple[Any, ...] = ()) -> Any:
        """Make a call of a port under the witness's eyes."""
        if self._dead:
            raise Killed
        with self._night.witness.watching(self.name, name, arguments):
            if name == "create":
                self._night.pods.created.append(arguments[0])
            result = call()
        if name == "put" and arguments[0] == RECORD:
            self._pass("after the record was written")
        return result

    def monotonic(self) -> float:
        return self._night.seconds

    def sleep(self, seconds: float) -> None:
        if self._dead:
            raise Killed
        self._night.pass_time(seconds)

    def _request(self, what: str, ask: Callable[[], Any]) -> Any:
        if self._dead:
            raise Killed
        self._pass(f"before {what}")
        try:
            return ask()
        finally:
            self._pass(f"after {what}")

    def _pass(self, point: str) -> None:
        self.passed.append(point)
        if len(self.passed) == self._dies_at:
            self._dead = True
            raise Killed
