"""From a run's record to the manifest of one attempt: every link that its pod will ever need, and no other.

Knows the contract, the record and the store as a port.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from job.contract import keys
from job.contract.manifest import Input, InputRole, Links, RunManifest, expected_artefacts
from job.contract.records import Receipt
from launcher.errors import UsageError
from launcher.model import Attempt, InputFile, RunRecord
from launcher.ports import Store

EXPIRY_MARGIN = timedelta(hours=1)
"""Every link outlives the hard deadline by at least this."""


@dataclass(frozen=True)
class Inheritance:
    """What an attempt takes over from earlier ones, all of it in the bucket and vouched for."""

    state: InputFile | None = None
    state_epoch: int = 0
    state_step: int = 0
    checkpoints: tuple[Receipt, ...] = ()
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
            *_inherited_inputs(record, store, inherited, expires_at),
        ),
        evaluation=evaluation,
        stop_at=attempt.stop_at,
        hard_deadline=attempt.hard_deadline,
        timing=spec.timing,
        links=links,
    )
    refuse_early_expiry(manifest)
    return manifest


def refuse_early_expiry(manifest: RunManifest) -> None:
    """Raise UsageError unless every link outlives the hard deadline by the margin."""
    expiry = manifest.earliest_expiry()
    if expiry < manifest.hard_deadline + EXPIRY_MARGIN:
        raise UsageError(
            f"the storage credentials end at {expiry:%Y-%m-%d %H:%M} UTC, less than an hour after the run's"
            f" hard deadline at {manifest.hard_deadline:%Y-%m-%d %H:%M} UTC",
            next_step="shorten the run with max_hours, or use credentials that last longer",
        )


def _input(item: InputFile, store: Store, expires_at: datetime) -> Input:
    return Input(
        role=item.role,
        name=item.name,
        bytes=item.bytes,
        sha256=item.sha256,
        link=store.presign_get(item.key, expires_at=expires_at),
    )


def _inherited_inputs(
    record: RunRecord, store: Store, inherited: Inheritance, expires_at: datetime
) -> list[Input]:
    found = [
        Input(
            role=InputRole.CHECKPOINT,
            name=receipt.name,
            bytes=receipt.bytes,
            sha256=receipt.sha256,
            epoch=receipt.epoch,
            step=receipt.step,
            link=store.presign_get(
                keys.attempt_prefix(record.run_id, receipt.attempt) + receipt.key, expires_at=expires_at
            ),
        )
        for receipt in inherited.checkpoints
    ]
    if inherited.state is not None:
        state = _input(inherited.state, store, expires_at)
        update = {"epoch": inherited.state_epoch, "step": inherited.state_step}
        found.append(state.model_copy(update=update))
    return found
