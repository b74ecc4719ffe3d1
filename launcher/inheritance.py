"""What a new attempt takes over: the newest resume state that proves whole, checkpoints still to be drawn.

The state is fetched, compared with its receipt and kept as an input of its own, so that nothing the earlier
attempt's pod may still do can change it.
"""

import tempfile
from pathlib import Path

from job.contract import keys
from job.contract.manifest import InputRole, evaluated_epochs
from job.contract.records import ArtefactKind, Receipt
from job.contract.schema import ContractError, decode
from launcher.errors import ObjectMissing, StorageError
from launcher.home import Home
from launcher.manifests import Inheritance
from launcher.model import InputFile, RunRecord
from launcher.ports import Notifier, Store
from launcher.pullback import PullBack


def inherit(record: RunRecord, store: Store, home: Home, notifier: Notifier) -> Inheritance:
    """Return what the next attempt of `record` goes on from. Raises StorageError when the store fails."""
    drawn = {item.receipt.epoch for item in record.brought if item.receipt.kind is ArtefactKind.SAMPLES}
    wanted = set(evaluated_epochs(record.spec.recipe, record.spec.evaluation)) - drawn
    checkpoints = tuple(item.receipt for item in record.checkpoints() if item.receipt.epoch in wanted)
    start_measured = keys.START_EPOCH in drawn
    for receipt in _states(record, store):
        name = f"resume-{receipt.attempt}-{receipt.epoch:06d}.tar"
        key = keys.input_key(record.run_id, name)
        source = keys.attempt_prefix(record.run_id, receipt.attempt) + receipt.key
        with tempfile.TemporaryDirectory(dir=home.scratch()) as folder:
            try:
                path = PullBack(store, Path(folder)).pull(source, receipt, name=name)
            except StorageError as error:
                notifier.say(f"the state after epoch {receipt.epoch} cannot be used: {error}")
                continue
            store.upload(path, key)
        state = InputFile(
            role=InputRole.RESUME_STATE, name=name, key=key, bytes=receipt.bytes, sha256=receipt.sha256
        )
        return Inheritance(state, receipt.epoch, receipt.step, checkpoints, start_measured)
    return Inheritance(checkpoints=checkpoints, start_measured=start_measured)


def _states(record: RunRecord, store: Store) -> list[Receipt]:
    """Return the receipts of all resume states of earlier attempts, the furthest first."""
    found = []
    for attempt in record.attempts:
        prefix = keys.attempt_prefix(record.run_id, attempt.number)
        for slot in keys.STATE_SLOTS:
            try:
                data, _ = store.get(prefix + keys.receipt(slot))
                receipt = decode(Receipt, data)
            except (ObjectMissing, ContractError):
                continue
            if (
                receipt.kind is ArtefactKind.STATE
                and receipt.key == slot
                and receipt.attempt == attempt.number
            ):
                found.append(receipt)
    return sorted(found, key=lambda receipt: (receipt.step, receipt.attempt), reverse=True)
