"""REST v2 on the account: each operation from a checked request to an answer. Raises Refusal."""

import base64
import binascii
from collections.abc import Callable
from datetime import datetime, timedelta

from tests.simulators.runpod import requests, shapes, wire
from tests.simulators.runpod.checks import Checks
from tests.simulators.runpod.ledger import bucket_start, next_bucket, records
from tests.simulators.runpod.model import World
from tests.simulators.runpod.placement import place
from tests.simulators.runpod.pod import ACTIONS, LogLine, Pod, Workload
from tests.simulators.runpod.wire import Answer, Follow, Refusal

BILLING_BEFORE = timedelta(days=30)


class Operations:
    """What a client may do. `mine` is the pod that a pod's own key belongs to, None for the account's key."""

    def __init__(self, world: World, checks: Checks, workload: Callable[[Pod], Workload]) -> None:
        self._world = world
        self._checks = checks
        self._workload = workload

    def create(self, body: bytes, now: datetime) -> Answer:
        """Rent a pod."""
        wanted = self._checks.body(requests.CreatePod, "CreatePodRequest", body)
        pod = place(wanted, self._world, now, self._world.faults.misfortune, self._workload)
        self._world.add(pod)
        return Answer(201, wire.pod_document(pod, now), "Pod")

    def list(self, query: dict[str, str], now: datetime, mine: Pod | None) -> Answer:
        """Return the pods that have come to the list, a page of them where the deployment has pages."""
        asked = self._checks.query(requests.ListQuery, query)
        conditions = self._world.faults.conditions
        oldest = now - timedelta(seconds=conditions.list_lag_seconds)
        gone_since = now - timedelta(seconds=conditions.list_linger_seconds)
        lingering = conditions.list_linger_seconds > 0
        pods = list(self._world.pods.values()) if lingering else self._world.living()
        shown = [
            pod
            for pod in pods
            if pod.created_at <= oldest
            and (pod.ended_at is None or pod.ended_at > gone_since)
            and (mine is None or pod is mine)
        ]
        if conditions.page_size is None:
            return Answer(200, {"pods": [wire.pod_document(pod, now) for pod in shown]}, "ListPodsResponse")
        begin = _after(asked.cursor, list(self._world.pods), shown)
        size = min(conditions.page_size, asked.limit or conditions.page_size)
        page, more = shown[begin : begin + size], len(shown) > begin + size
        cursor = base64.urlsafe_b64encode(page[-1].pod_id.encode()).decode() if more else None
        value = {
            "pods": [wire.pod_document(pod, now) for pod in page],
            "pagination": {"nextCursor": cursor, "hasNextPage": more},
        }
        return Answer(200, value, "ListPodsResponse")

    def get(self, pod_id: str, now: datetime) -> Answer:
        """Return a pod."""
        return Answer(200, wire.pod_document(self.visible(pod_id, now), now), "Pod")

    def update(self, pod_id: str, body: bytes, now: datetime) -> Answer:
        """Change what may be changed: here the name, the lock and the container's settings."""
        changes = self._checks.body(requests.UpdatePod, "UpdatePodRequest", body)
        pod = self.visible(pod_id, now)
        given = changes.model_fields_set
        if given - {"name", "locked", "env", "args", "image"}:
            raise Refusal(400, "this field cannot be changed here")
        if "name" in given and changes.name:
            pod.name = changes.name
        if "locked" in given and changes.locked is not None:
            pod.locked = changes.locked
        if "env" in given:
            pod.environment = dict(changes.env)
        if "args" in given:
            pod.args = changes.args
        if "image" in given and changes.image:
            pod.image = changes.image
        return Answer(200, wire.pod_document(pod, now), "Pod")

    def delete(self, pod_id: str, now: datetime, by: str) -> Answer:
        """End a pod for good."""
        pod = self.visible(pod_id, now)
        self.refuse_locked(pod)
        self._world.terminate(pod, now, by=by)
        return Answer(204)

    def act(self, pod_id: str, body: bytes, now: datetime, by: str) -> Answer:
        """Start, stop, restart or terminate a pod."""
        action = self._checks.body(requests.ActOnPod, "PodActionRequest", body).action
        if action == "terminate":
            return self.delete(pod_id, now, by)
        pod = self.visible(pod_id, now)
        if action not in ACTIONS[pod.status] or pod.ending:
            raise Refusal(409, f"cannot {action} a pod that is {pod.status}")
        if pod.locked and action != "start":
            raise Refusal(409, "pod is locked")
        world = self._world
        {"start": world.start, "stop": world.stop, "restart": world.restart}[action](pod, now)
        return Answer(200, wire.pod_document(pod, now), "Pod")

    def logs(self, pod_id: str, query: dict[str, str], last_event: str | None, now: datetime) -> Answer:
        """Return the pod's log from where the client is; it goes on while the pod exists."""
        asked = self._checks.query(requests.LogsQuery, query)
        pod = self.visible(pod_id, now)
        lines = [line for line in pod.logs if asked.source in (None, line.source)]
        if last_event is not None:
            lines = [line for line in lines if _is_later(line, last_event)]
        elif asked.since is not None:
            lines = [line for line in lines if line.at >= asked.since]
        else:
            lines = lines[len(lines) - asked.tail :] if asked.tail < len(lines) else lines
        after = lines[0].number - 1 if lines else pod.log_lines
        for line in lines:
            self._checks.answer(shapes.LogData, "", wire.log_document(line)[1])
        return Answer(200, content_type="text/event-stream", follow=Follow(pod, asked.source, after))

    def gpus(self, query: dict[str, str]) -> Answer:
        """Return every GPU type."""
        asked = self._checks.query(requests.GpusQuery, query)
        if (asked.include is None) != (asked.product is None):
            raise Refusal(400, "include=AVAILABILITY and product go together")
        if asked.include is None and (asked.count or asked.cloud or asked.min_cuda_version):
            raise Refusal(400, "count, cloud and minCudaVersion are valid only with include=AVAILABILITY")
        found = [
            wire.gpu_document(
                gpu,
                self._world.catalog,
                availability=asked.include is not None,
                count=asked.count or 1,
                cloud=wire.default_cloud(asked.cloud),
                minimum_cuda=asked.min_cuda_version,
            )
            for gpu in self._world.catalog.gpus.values()
        ]
        return Answer(200, {"gpus": found}, "ListGpuTypesResponse")

    def data_centers(self, query: dict[str, str]) -> Answer:
        """Return the data centers."""
        asked = self._checks.query(requests.DataCentersQuery, query)
        regions = asked.regions.split(",") if asked.regions else []
        found = [
            wire.data_center_document(place, self._world.catalog, availability=asked.include is not None)
            for place, region in self._world.catalog.data_centers.items()
            if not regions or region in regions
        ]
        return Answer(200, {"dataCenters": found}, "ListDataCentersResponse")

    def billing(self, query: dict[str, str], now: datetime) -> Answer:
        """Return pods' bills, as far as billing has come."""
        asked = self._checks.query(requests.BillingQueryString, query)
        if asked.last_n is not None and (asked.start_time or asked.end_time):
            raise Refusal(400, "lastN and startTime/endTime exclude each other")
        begin = bucket_start(asked.start_time or now - BILLING_BEFORE, asked.bucket_size)
        end = _bucket_end(asked.end_time or now, asked.bucket_size)
        if asked.last_n is not None:
            begin = bucket_start(now, asked.bucket_size)
            for _ in range(asked.last_n - 1):
                begin = bucket_start(begin - timedelta(seconds=1), asked.bucket_size)
        refreshed = self._world.faults.conditions.billing_refresh_seconds
        known = now
        if refreshed:
            known = datetime.fromtimestamp(now.timestamp() // refreshed * refreshed, now.tzinfo)
        pods = [pod for pod in self._world.pods.values() if asked.pod_id in (None, pod.pod_id)]
        found = records(pods, begin, end, asked.bucket_size, known)
        value = wire.billing_document(found, begin, end, asked.bucket_size, asked.pod_id)
        return Answer(200, value, "ListPodBillingResponse")

    def visible(self, pod_id: str, now: datetime) -> Pod:
        """Return a pod that exists and can be seen. Raises Refusal."""
        pod = self._world.pods.get(pod_id)
        lag = timedelta(seconds=self._world.faults.conditions.get_lag_seconds)
        if pod is None or not pod.exists or now < pod.created_at + lag:
            raise Refusal(404, "pod not found")
        return pod

    def refuse_locked(self, pod: Pod) -> None:
        """Raise Refusal for a locked pod, where a lock keeps pods from being ended."""
        if pod.locked and self._world.faults.conditions.locked_refuses_terminate:
            raise Refusal(409, "pod is locked")


def _after(cursor: str | None, ever: list[str], shown: list[Pod]) -> int:
    """Return where a page begins: after the pod that the cursor names, even if that is gone by now."""
    if cursor is None:
        return 0
    try:
        order = {pod_id: number for number, pod_id in enumerate(ever)}
        last = order[base64.urlsafe_b64decode(cursor).decode()]
    except (binascii.Error, UnicodeDecodeError, KeyError):
        raise Refusal(400, "invalid cursor") from None
    return sum(order[pod.pod_id] <= last for pod in shown)


def _is_later(line: LogLine, event: str) -> bool:
    """Whether a line comes after an event id: a time, or a time and the line's number."""
    at, _, number = event.partition("/")
    if number.isdigit():
        return line.number > int(number)
    try:
        return line.at >= datetime.fromisoformat(at)
    except (ValueError, TypeError):
        raise Refusal(400, "Last-Event-ID is no time") from None


def _bucket_end(at: datetime, size: str) -> datetime:
    start = bucket_start(at, size)
    return at if start == at else next_bucket(start, size)
