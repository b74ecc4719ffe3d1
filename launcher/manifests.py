"""From a run's record to the manifest of one attempt: every link that its pod will ever need, and no other.

Knows the contract, the record and the store as a port.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from job.contract import keys
from job.contract.manifest import (
    DEADLINE_VARIABLE,
    MANIFEST_URL_VARIABLE,
    Input,
    Links,
    RunManifest,
    expected_artefacts,
)
from job.contract.records import Receipt
from launcher.errors import UsageError
from launcher.model import Attempt, InputFile, RunRecord
from launcher.ports import Offer, PodSpec, Store

EXPIRY_MARGIN = timedelta(hours=1)
"""Every link outlives the hard deadline by at least this."""


@dataclass(frozen=True)
class Inheritance:
    """What an attempt takes over from earlier ones, all of it in the bucket and vouched for."""

    state: InputFile | None = None
    state_epoch: int = 0
    state_step: int = 0
    checkpoints: tuple[tuple[InputFile, Receipt], ...] = ()
    """Checkpoints that no image was drawn of yet."""
    start_measured: bool = False
    """Whether the start's images are home already."""


def build_manifest(record: RunRecord, attempt: Attempt, store: Store, inherited: Inheritance) -> RunManifest:
    """Return the manifest of `attempt`, with links that are valid until an hour after its hard deadline.

    Raises UsageError when the credentials that sign end too early for that.
    """
    # Two margins: a link is asked for with room, and refused below the promise.
    expires_at = attempt.hard_deadline + 2 * EXPIRY_MARGIN
    spec = record.spec
    evaluation = spec.evaluation
    if evaluation is not None and inherited.start_measured:
        evaluation = evaluation.model_copy(update={"measure_start": False})
    prefix = keys.attempt_prefix(record.run_id, attempt.number)
    durable = expected_artefacts(spec.recipe, evaluation)

    def signed(names: Sequence[str], *, write: bool = False, create_only: bool = False) -> dict[str, object]:
        return {
            name: store.presign_put(prefix + name, expires_at=expires_at, create_only=create_only)
            if write
            else store.presign_get(prefix + name, expires_at=expires_at)
            for name in names
        }

    links = Links.model_validate(
        {
            "get": signed(keys.read_back(durable)),
            "put": signed(keys.overwritten(durable), write=True),
            "create": signed(keys.created_once(), write=True, create_only=True),
        }
    )
    manifest = RunManifest(
        run_id=record.run_id,
        attempt=attempt.number,
        trainer=spec.trainer,
        recipe=spec.recipe,
        inputs=(
            *(_input(item, store, expires_at) for item in spec.inputs),
            *_inherited_inputs(store, inherited, expires_at),
        ),
        evaluation=evaluation,
        stop_at=attempt.stop_at,
        hard_deadline=attempt.hard_deadline,
        timing=spec.timing,
        links=links,
    )
    refuse_early_expiry(manifest.earliest_expiry(), manifest.hard_deadline)
    return manifest


def pod_spec(record: RunRecord, attempt: Attempt, store: Store, inherited: Inheritance) -> PodSpec:
    """Put the manifest of `attempt` into the bucket and return the pod to ask for. Raises UsageError."""
    manifest = build_manifest(record, attempt, store, inherited)
    key = keys.manifest_key(record.run_id, attempt.number)
    store.put(key, manifest.encode())
    link = store.presign_get(key, expires_at=attempt.hard_deadline + EXPIRY_MARGIN)
    return PodSpec(
        name=attempt.pod_name,
        offer=Offer(attempt.offer, attempt.price_ceiling, attempt.offer_location),
        environment={
            MANIFEST_URL_VARIABLE: link.url.get_secret_value(),
            DEADLINE_VARIABLE: attempt.hard_deadline.isoformat(),
        },
        image=record.spec.image,
        disk_gb=record.spec.disk_gb,
    )


def refuse_early_expiry(expiry: datetime, hard_deadline: datetime) -> None:
    """Raise UsageError unless links that end at `expiry` outlive the hard deadline by the margin."""
    if expiry < hard_deadline + EXPIRY_MARGIN:
        raise UsageError(
            f"links to the store, or the credentials that sign them, end at {expiry:%Y-%m-%d %H:%M} UTC, less"
            f" than an hour after the run's hard deadline at {hard_deadline:%Y-%m-%d %H:%M} UTC",
            next_step="shorten the run with budget.max_hours, or use credentials that last longer",
        )


def _input(item: InputFile, store: Store, expires_at: datetime) -> Input:
    return Input(
        role=item.role,
        name=item.name,
        bytes=item.bytes,
        sha256=item.sha256,
        link=store.presign_get(item.key, expires_at=expires_at),
    )


def _inherited_inputs(store: Store, inherited: Inheritance, expires_at: datetime) -> list[Input]:
    found = [
        _input(item, store, expires_at).model_copy(update={"epoch": receipt.epoch, "step": receipt.step})
        for item, receipt in inherited.checkpoints
    ]
    if inherited.state is not None:
        state = _input(inherited.state, store, expires_at)
        update = {"epoch": inherited.state_epoch, "step": inherited.state_step}
        found.append(state.model_copy(update=update))
    return found
