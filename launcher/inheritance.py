"""What a new attempt takes over: the newest resume state that proves whole, checkpoints still to be drawn.

Both are fetched, compared with their receipts and kept as inputs of their own, so that nothing an earlier
attempt's pod may still do can change them.
"""

from collections.abc import Callable
from pathlib import Path

from job.contract import keys
from job.contract.manifest import InputRole, evaluated_epochs
from job.contract.records import ArtefactKind, Receipt
from job.contract.schema import ContractError, decode
from launcher.errors import IntegrityError, ObjectMissing
from launcher.machine.files import disk_errors
from launcher.manifests import Inheritance
from launcher.model import InputFile, RunRecord
from launcher.observe import MESSAGE_BYTES_MAX
from launcher.ports import Notifier, Store
from launcher.results.home import Home
from launcher.results.pullback import PullBack


def inherit(
    record: RunRecord,
    store: Store,
    home: Home,
    notifier: Notifier,
    *,
    on_bytes: Callable[[str, int], None],
) -> Inheritance:
    """Return what the next attempt of `record` goes on from; `on_bytes` is called while bytes come in.

    Raises StorageError when the store fails, LocalDiskError when this machine's disk does.
    """
    drawn = {item.receipt.epoch for item in record.brought if item.receipt.kind is ArtefactKind.SAMPLES}
    wanted = set(evaluated_epochs(record.spec.recipe, record.spec.evaluation)) - drawn

    def kept(receipt: Receipt, role: InputRole) -> InputFile | None:
        """Copy an artefact into the run's inputs; None when it is not what its receipt says."""
        name = f"attempt-{receipt.attempt}-{role.value}-{receipt.epoch:06d}{Path(receipt.key).suffix}"
        key = keys.input_key(record.run_id, name)
        source = keys.attempt_prefix(record.run_id, receipt.attempt) + receipt.key
        with home.passing() as folder:
            try:
                path = PullBack(store, folder, on_bytes=on_bytes).pull(source, receipt, name=name)
            except (IntegrityError, ObjectMissing) as error:
                notifier.say(f"{role.value} of epoch {receipt.epoch} cannot be used: {error}")
                return None
            with disk_errors(f"{path} cannot be read"):
                store.upload(path, key)
        return InputFile(role=role, name=name, key=key, bytes=receipt.bytes, sha256=receipt.sha256)

    checkpoints = tuple(
        (item, receipt)
        for receipt in (brought.receipt for brought in record.checkpoints())
        if receipt.epoch in wanted and (item := kept(receipt, InputRole.CHECKPOINT)) is not None
    )
    start_measured = keys.START_EPOCH in drawn
    for receipt in _states(record, store):
        state = kept(receipt, InputRole.RESUME_STATE)
        if state is not None:
            return Inheritance(state, receipt.epoch, receipt.step, checkpoints, start_measured)
    return Inheritance(checkpoints=checkpoints, start_measured=start_measured)


def _states(record: RunRecord, store: Store) -> list[Receipt]:
    """Return the receipts of all resume states of earlier attempts, the furthest first."""
    found = []
    for attempt in record.attempts:
        prefix = keys.attempt_prefix(record.run_id, attempt.number)
        slots = {prefix + keys.receipt(slot): slot for slot in keys.STATE_SLOTS}
        for item in store.list(prefix + "state/"):
            if item.key not in slots or item.size > MESSAGE_BYTES_MAX:
                continue
            try:
                receipt = decode(Receipt, store.get(item.key)[0])
            except (ObjectMissing, ContractError):
                continue
            vouches = (receipt.kind, receipt.key, receipt.attempt, receipt.run_id)
            if vouches == (ArtefactKind.STATE, slots[item.key], attempt.number, record.run_id):
                found.append(receipt)
    return sorted(found, key=lambda receipt: (receipt.step, receipt.attempt), reverse=True)
