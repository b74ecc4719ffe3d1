"""RunPod as a pod sees it with its own key: ask to be ended, look at itself. One request at a time.

Knows both of RunPod's APIs and httpx. Nothing here raises, nothing takes longer than `ANSWER_SECONDS`, and
no text that leaves holds the key: errors are told by their type alone.
"""

import json
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote

import httpx

from job.environment import OwnPod
from job.transfer import job_version

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 10.0
ANSWER_SECONDS = 20.0
"""For a whole answer, the name's look-up included, which no time-out of httpx ends."""
BODY_BYTES = 1 << 20


class Api(StrEnum):
    """REST v2, and the GraphQL that goes before it is gone."""

    V2 = "v2"
    GRAPHQL = "graphql"


@dataclass(frozen=True)
class Said:
    """What came of one request. `words` are for people."""

    yes: bool
    """Whether RunPod did what was asked."""
    words: str
    answered: bool = True
    """Whether any HTTP answer came."""


@dataclass(frozen=True)
class Call:
    """A request without its secrets. `accepts` reads the JSON of an answer; without it 2xx is a yes."""

    method: str
    path: str
    document: str | None = None
    """Of GraphQL."""
    accepts: Callable[[object], bool] | None = None


def connect(*, trust_env: bool) -> httpx.Client:
    """Return a client that verifies TLS by the certificates of certifi.

    With `trust_env` by SSL_CERT_FILE and SSL_CERT_DIR where they are set, and through proxies.
    """
    return httpx.Client(
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        trust_env=trust_env,
    )


class Provider:
    """Requests of this pod about itself. Thread-safe: each has a connection of its own."""

    def __init__(self, own: OwnPod, client: Callable[..., httpx.Client] = connect) -> None:
        self._own = own
        self._client = client

    @property
    def has_key(self) -> bool:
        """Whether the pod was given a key."""
        return bool(self._own.key.get_secret_value())

    def terminate(self, api: Api, *, trust_env: bool = False) -> Said:
        """Ask for this pod's end. A yes is an acknowledgement: the end comes later, or not at all."""
        if api is Api.V2:
            call = Call("DELETE", self._path)
        else:
            call = self._graph("mutation", "podTerminate", "", lambda _: True)
        return self._ask(call, trust_env=trust_env)

    def look(self) -> dict[str, str]:
        """Return what this pod's key can see of its pod: hints, by name. Seeing is no right to end."""
        if not self.has_key:
            return {"own_key": "not set"}

        def is_own(pod: object) -> bool:
            return isinstance(pod, dict) and pod.get("id") == self._own.pod_id

        calls = {
            Api.V2: Call("GET", self._path, accepts=is_own),
            Api.GRAPHQL: self._graph("query", "pod", "{ id }", is_own),
        }
        said = {f"own_key_{api}": self._ask(call, trust_env=False) for api, call in calls.items()}
        return {name: "sees its pod" if one.yes else one.words for name, one in said.items()}

    @property
    def _path(self) -> str:
        return f"/v2/pods/{quote(self._own.pod_id, safe='')}"

    def _graph(self, kind: str, name: str, fields: str, accepts: Callable[[object], bool]) -> Call:
        """Return a GraphQL request for this pod; what it answers stands under `name` in its `data`."""
        document = f"{kind} {{ {name}(input: {{ podId: {json.dumps(self._own.pod_id)} }}) {fields} }}"

        def accepted(answer: object) -> bool:
            data = answer.get("data") if isinstance(answer, dict) and not answer.get("errors") else None
            return isinstance(data, dict) and name in data and accepts(data[name])

        return Call("POST", "/graphql", document, accepted)

    def _ask(self, call: Call, *, trust_env: bool) -> Said:
        """Send one request in a thread of its own, which is left behind where it hangs."""
        answers: queue.SimpleQueue[Said] = queue.SimpleQueue()

        def send() -> None:
            try:
                said = self._send(call, trust_env=trust_env)
            except Exception as error:  # noqa: BLE001 - its text may quote the request, and nothing may raise
                said = Said(False, f"no answer ({type(error).__name__})", answered=False)
            answers.put(said)

        try:
            threading.Thread(target=send, name="provider", daemon=True).start()
        except (RuntimeError, MemoryError):
            send()  # no thread to be had
        try:
            return answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            return Said(False, f"no answer within {ANSWER_SECONDS:g} seconds", answered=False)

    def _send(self, call: Call, *, trust_env: bool) -> Said:
        with (
            self._client(trust_env=trust_env) as client,
            client.stream(
                call.method,
                self._own.api + call.path,
                headers={
                    "Authorization": f"Bearer {self._own.key.get_secret_value()}",
                    # One of its own: that of some libraries is refused.
                    "User-Agent": f"retrain-job/{job_version()}",
                },
                json=None if call.document is None else {"query": call.document},
            ) as response,
        ):
            status = response.status_code
            if not response.is_success:
                return Said(False, f"HTTP {status}")
            if call.accepts is None or call.accepts(_parsed(_body(response))):
                return Said(True, f"HTTP {status}")
        return Said(False, f"HTTP {status} with another answer")


def _body(response: httpx.Response) -> bytes:
    body = b""
    for piece in response.iter_bytes():
        body += piece
        if len(body) > BODY_BYTES:
            break
    return body


def _parsed(body: bytes) -> object:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value
