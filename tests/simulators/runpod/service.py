"""From a request to an answer: who asks, what is asked, what goes wrong, and a record of it all.

Knows no sockets: `server.py` puts it on a port, `transport.py` into a client.
"""

import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel

from tests.simulators.runpod import graphql, requests, shapes, wire
from tests.simulators.runpod.checks import Checks, Misfit
from tests.simulators.runpod.clock import Now
from tests.simulators.runpod.faults import Fault, KeyRights, Operation
from tests.simulators.runpod.model import World
from tests.simulators.runpod.operations import Operations
from tests.simulators.runpod.pod import Pod
from tests.simulators.runpod.troubles import DISTORTIONS, cloudflare, instead
from tests.simulators.runpod.wire import Answer, Refusal, problem

MODELS: Mapping[str, type[BaseModel]] = {
    "Pod": shapes.PodShape,
    "ListPodsResponse": shapes.PodList,
    "ListGpuTypesResponse": shapes.GpuTypes,
    "ListDataCentersResponse": shapes.DataCenters,
    "ListPodBillingResponse": shapes.Billing,
    "ErrorResponse": shapes.Problem,
}
PATHS: Mapping[str, Mapping[str, Operation]] = {
    "/v2/pods": {"GET": Operation.LIST, "POST": Operation.CREATE},
    "/v2/pods/*": {"GET": Operation.GET, "PATCH": Operation.UPDATE, "DELETE": Operation.DELETE},
    "/v2/pods/*/action": {"POST": Operation.ACTION},
    "/v2/pods/*/logs": {"GET": Operation.LOGS},
    "/v2/catalog/gpus": {"GET": Operation.GPUS},
    "/v2/catalog/datacenters": {"GET": Operation.DATA_CENTERS},
    "/v2/billing/pods": {"GET": Operation.BILLING},
    "/graphql": {"POST": Operation.UNKNOWN},
}
GRAPHQL = {Operation.MYSELF, Operation.GRAPHQL_POD, Operation.GRAPHQL_TERMINATE}
READ_BY_POST = {Operation.MYSELF, Operation.GRAPHQL_POD}
OWN_POD = {
    Operation.LIST,
    Operation.GET,
    Operation.DELETE,
    Operation.ACTION,
    Operation.TERMINATE_ACTION,
    Operation.GRAPHQL_POD,
    Operation.GRAPHQL_TERMINATE,
}
"""What a pod's own key may do, to its own pod: a guess."""
RETIRED = "/v1"


@dataclass(frozen=True)
class Request:
    """One request. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Record:
    """One request as it went, for tests to read."""

    at: datetime
    operation: Operation
    pod_id: str
    by_pod: bool
    status: int
    """Of the answer as sent; 0 for none."""
    touched_a_stranger: bool


class Service:
    """Answers requests, one at a time."""

    def __init__(
        self, world: World, operations: Operations, checks: Checks, now: Now, account_keys: set[str]
    ) -> None:
        self.lock = threading.RLock()
        self.account_keys = account_keys
        """More may be added, and taken away as if revoked."""
        self.records: list[Record] = []
        self._world = world
        self._operations = operations
        self._checks = checks
        self.now = now
        self._minutes: Counter[tuple[str, int]] = Counter()

    def answer(self, request: Request) -> Answer:
        """Answer a request."""
        with self.lock:
            now = self.now()
            self._world.settle(now)
            parts = urlsplit(request.target)
            operation, pod_id = self._what(request, parts.path)
            key = request.headers.get("authorization", "").removeprefix("Bearer ")
            mine = None if key in self.account_keys else self._world.by_key(key)
            # The honest answer too is made under the fault's name: it may have to be thrown away.
            answer = self._answer(request, operation, pod_id, key, mine, now)
            target = self._world.pods.get(pod_id)
            status = answer.status if answer.delivery is wire.Delivery.WHOLE else 0
            strange = target is not None and target.stranger
            changing = request.method != "GET" and operation not in READ_BY_POST
            record = Record(now, operation, pod_id, mine is not None, status, strange and changing)
            self.records.append(record)
            return answer

    def _answer(
        self, request: Request, operation: Operation, pod_id: str, key: str, mine: Pod | None, now: datetime
    ) -> Answer:
        agent = request.headers.get("user-agent", "")
        if not agent or agent.lower().startswith("python-urllib"):
            return cloudflare()
        fault = self._world.faults.strike(operation, by_pod=mine is not None, now=now)
        if fault is not None and not needs_honest_answer(fault):
            return instead(fault, Answer(204))
        try:
            self._allow(operation, pod_id, key, mine, now)
            honest = self._do(request, operation, pod_id, mine, now)
        except Misfit as misfit:
            honest = problem(422, "Request validation failed.", misfit.errors)
        except Refusal as refusal:
            honest = self._refused(operation, refusal)
        except (json.JSONDecodeError, UnicodeDecodeError):
            honest = problem(400, "the body is not JSON")
        self._check(honest)
        return honest if fault is None else instead(fault, honest)

    def _what(self, request: Request, path: str) -> tuple[Operation, str]:
        """Return the operation and the pod that a request names."""
        pieces = path.split("/")
        pod_id = pieces[3] if path.startswith("/v2/pods/") and len(pieces) > 3 else ""
        if pod_id:
            pieces[3] = "*"
        operation = PATHS.get("/".join(pieces), {}).get(request.method, Operation.UNKNOWN)
        if operation is Operation.ACTION and _member(request.body, "action") == "terminate":
            operation = Operation.TERMINATE_ACTION
        if path == "/graphql" and request.method == "POST":
            operation = graphql.operation_of(str(_member(request.body, "query")))
            if operation in (Operation.GRAPHQL_POD, Operation.GRAPHQL_TERMINATE):
                variables = _member(request.body, "variables")
                pod_id = graphql.pod_id_of(
                    requests.GraphQuery(
                        query=str(_member(request.body, "query")),
                        variables=variables if isinstance(variables, dict) else None,
                    )
                )
        return operation, pod_id

    def _allow(self, operation: Operation, pod_id: str, key: str, mine: Pod | None, now: datetime) -> None:
        """Check key, rights and quota. Raises Refusal."""
        if key not in self.account_keys and mine is None:
            raise Refusal(401, "missing bearer token" if not key else "invalid bearer token")
        conditions = self._world.faults.conditions
        minute = (key, int(now.timestamp()) // 60)
        self._minutes[minute] += 1
        if conditions.quota_per_minute is not None and self._minutes[minute] > conditions.quota_per_minute:
            raise Refusal(429, "rate limit exceeded for the minute window")
        if mine is None:
            return
        side = KeyRights.GRAPHQL if operation in GRAPHQL else KeyRights.V2
        allowed = mine.rights(conditions.pod_key_rights) in (side, KeyRights.BOTH)
        own = operation is Operation.LIST or pod_id == mine.pod_id
        if not (allowed and own and operation in OWN_POD):
            raise Refusal(403, "access denied")

    def _do(
        self, request: Request, operation: Operation, pod_id: str, mine: Pod | None, now: datetime
    ) -> Answer:
        do, body = self._operations, request.body
        parts = urlsplit(request.target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        by = "itself" if mine is not None else "account"
        match operation:
            case Operation.CREATE:
                return do.create(body, now)
            case Operation.LIST:
                return do.list(query, now, mine)
            case Operation.GET:
                return do.get(pod_id, now)
            case Operation.UPDATE:
                return do.update(pod_id, body, now)
            case Operation.DELETE:
                return do.delete(pod_id, now, by)
            case Operation.ACTION | Operation.TERMINATE_ACTION:
                return do.act(pod_id, body, now, by)
            case Operation.LOGS:
                return do.logs(pod_id, query, request.headers.get("last-event-id"), now)
            case Operation.GPUS:
                return do.gpus(query)
            case Operation.DATA_CENTERS:
                return do.data_centers(query)
            case Operation.BILLING:
                return do.billing(query, now)
        if parts.path == "/graphql":
            return self._graph(body, operation, pod_id, now, by)
        if parts.path.startswith(RETIRED):
            raise Refusal(410, "this version of the API is retired")
        pieces = ["*" if number == 3 else piece for number, piece in enumerate(parts.path.split("/"))]
        known = parts.path in PATHS or "/".join(pieces) in PATHS
        raise Refusal(405 if known else 404, "method not allowed" if known else "no such path")

    def _graph(self, body: bytes, operation: Operation, pod_id: str, now: datetime, by: str) -> Answer:
        asked = self._checks.body(requests.GraphQuery, "", body)
        if operation is Operation.UNKNOWN:
            return Answer(400, graphql.failed("Cannot query that field."))
        if operation is Operation.MYSELF:
            values: dict[str, float | None] = {
                "clientBalance": self._world.ledger.balance(now),
                "currentSpendPerHr": self._world.ledger.usd_per_hour,
                "spendLimit": 80,
            }
            return Answer(200, graphql.myself(graphql.fields_of(asked.query), values))
        if operation is Operation.GRAPHQL_POD:
            return Answer(200, graphql.pod(self._operations.visible(pod_id, now).pod_id))
        self._operations.delete(pod_id, now, by)
        return Answer(200, graphql.terminated())

    def _refused(self, operation: Operation, refusal: Refusal) -> Answer:
        if operation in GRAPHQL and refusal.status not in (401, 429):
            return Answer(200, graphql.failed(refusal.detail))
        answer = problem(refusal.status, refusal.detail, refusal.errors)
        if refusal.status == 429:
            answer.headers["Retry-After"] = str(60 - int(self.now().timestamp()) % 60)
        return answer

    def _check(self, answer: Answer) -> None:
        if answer.value is not None:
            model = MODELS.get(answer.schema, shapes.GraphAnswer)
            self._checks.answer(model, answer.schema, answer.value)


def needs_honest_answer(fault: Fault) -> bool:
    """Whether the request has to be carried out, or its answer known, before the fault strikes."""
    return fault.after_effect or fault.trouble in DISTORTIONS


def _member(body: bytes, name: str) -> Any:
    """Return a member of a JSON object, None when there is none or the body is no such thing."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value.get(name) if isinstance(value, dict) else None
