"""What a night must have come to, as simulator, bucket and disk have it. Believes no launcher."""

import hashlib
import re
from collections.abc import Iterator, Sequence

from job.contract import keys
from job.contract.events import Prepared, decode_log
from job.contract.records import ArtefactKind
from job.contract.schema import ContractError, decode
from launcher.model import Phase, RunRecord
from launcher.money.budget import spent_at_most
from tests.rehearsal.faults import Mishap
from tests.rehearsal.night import CAP_DOLLARS, EPOCHS, OUTPUT, Night
from tests.simulators.runpod import Operation

SIGNED = re.compile(rb"X-Amz-(Signature|Credential|Security-Token)=", re.IGNORECASE)
REFUSED = (401, 403, 422)
"""What RunPod answers to requests that no launcher should have made. Pods try what their key allows."""


def broken(night: Night, mishaps: Sequence[Mishap] = ()) -> list[str]:
    """Return a sentence for everything that does not hold; nothing is running any more."""
    return [
        *_unstruck(night, mishaps),
        *_teardown(night),
        *_data(night),
        *_resumption(night),
        *_money(night),
        *_requests(night),
        *_secrets(night),
    ]


def receipt(night: Night) -> str:
    """Return what the simulator billed, pod by pod, as text."""
    simulator = night.simulator
    lines = ["", "What the provider billed, by the simulator's own books:"]
    for pod in simulator.pods:
        if pod.stranger:
            continue
        end = pod.ended_at or simulator.now()
        seconds = (end - pod.created_at).total_seconds()
        ended = f"gone {end:%H:%M:%S} by {pod.ended_by}" if pod.ended_at else "STILL THERE"
        lines.append(
            f"  {pod.pod_id}  {pod.gpu_id:<18} {pod.data_center:<9} created {pod.created_at:%H:%M:%S},"
            f" {ended}, {seconds:.0f} s, ${simulator.spent(pod.pod_id):.4f}"
        )
    record = _record(night)
    stated = f", ${_stated(record):.4f} at most by the launcher" if record else ""
    lines.append(f"  together ${simulator.spent():.4f}{stated}, cap ${CAP_DOLLARS:.2f}")
    return "\n".join(lines) + "\n"


def _unstruck(night: Night, mishaps: Sequence[Mishap]) -> Iterator[str]:
    for mishap in mishaps:
        if any(fault.times for fault in mishap.answers):
            yield f"it did not happen that {mishap.words}"
    struck = sum(mishap.strike is not None for mishap in mishaps)
    seen = sum(pod.ended_by == "host" for pod in night.simulator.pods) + sum(
        line.text == "host restarted" for pod in night.simulator.pods for line in list(pod.logs)
    )
    if seen != struck:
        yield f"{struck} pods were to be struck by their hosts, {seen} were"


def _teardown(night: Night) -> Iterator[str]:
    for pod in night.simulator.existing:
        yield f"pod {pod.pod_id} ({pod.name}) still exists"
    if not night.stranger.exists or night.simulator.touched_strangers:
        yield "somebody else's pod was touched"


def _data(night: Night) -> Iterator[str]:
    record = _record(night)
    if record is None or record.phase is not Phase.DONE:
        yield f"the run is not done: {record.phase.value if record else 'there is no run.json'}"
    made = night.receipts(ArtefactKind.CHECKPOINT)
    newest = {item.name: item for item in sorted(made, key=lambda item: item.attempt)}
    for epoch in range(1, EPOCHS + 1):
        name = f"{OUTPUT}-{epoch:06d}.safetensors"
        path = night.folder / "models" / name
        if name not in newest:
            yield f"{name} was never made"
        elif not path.is_file():
            yield f"{name} is not at home"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != newest[name].sha256:
            yield f"{name} is not what its receipt says"
    if not (night.folder / "models" / f"{OUTPUT}.safetensors").is_file():
        yield "no epoch was selected"


def _resumption(night: Night) -> Iterator[str]:
    """Every life of a pod but the first goes on from what an earlier one kept."""
    logs = [item.key for item in night.store.list(keys.RUNS_PREFIX) if item.key.endswith("/events.jsonl")]
    told = [event for key in sorted(logs) for event in decode_log(night.store.get(key)[0])]
    for event in [event for event in told if isinstance(event, Prepared)][1:]:
        if event.resumed_epoch == 0:
            yield f"life {event.life} of attempt {event.attempt} began anew"


def _money(night: Night) -> Iterator[str]:
    spent, record = night.simulator.spent(), _record(night)
    if spent > CAP_DOLLARS:
        yield f"${spent:.4f} were spent under a cap of ${CAP_DOLLARS:.2f}"
    if record is not None and spent > _stated(record):
        yield f"${spent:.4f} were spent, and the launcher says at most ${_stated(record):.4f}"


def _requests(night: Night) -> Iterator[str]:
    yield from night.simulator.checks.defects[:5]
    injected = {fault.trouble for fault in night.simulator.faults.answers}
    for record in night.simulator.records:
        refused = record.status in REFUSED and not record.by_pod and not injected
        if record.operation is Operation.UNKNOWN or refused:
            yield f"a request that RunPod does not know or refuses: {record.operation}, {record.status}"


def _secrets(night: Night) -> Iterator[str]:
    planted = {what: secret.encode() for what, secret in night.secrets.items()}
    for where, text in _written(night):
        if SIGNED.search(text):
            yield f"a presigned link is in {where}"
        for what, secret in planted.items():
            if secret in text:
                yield f"{what} is in {where}"


def _written(night: Night) -> Iterator[tuple[str, bytes]]:
    """Yield all that was said and written, but manifests, which are made of links, and the store's own."""
    for command in night.commands:
        yield "what a command shows", command.said
    for pod in night.simulator.pods:
        yield f"the log of pod {pod.pod_id}", "\n".join(line.text for line in list(pod.logs)).encode()
    for path in night.folder.rglob("*"):
        if path.is_file() and not path.is_relative_to(night.folder / "store"):
            yield str(path), path.read_bytes()
    for item in night.store.list(""):
        if "/manifests/" not in item.key and "/inputs/" not in item.key:
            yield f"the bucket's {item.key}", night.store.get(item.key)[0]


def _record(night: Night) -> RunRecord | None:
    """Return the record as it lies at home, None where there is none or it cannot be read."""
    path = night.folder / "models" / OUTPUT / "run.json"
    try:
        return decode(RunRecord, path.read_bytes())
    except (OSError, ContractError):
        return None


def _stated(record: RunRecord) -> float:
    return spent_at_most(record, record.closed_at or record.created_at)
