"""The loss curve of a whole run, put together from what the jobs of all its attempts told.

Reads events through the store as a port. Telemetry: what nobody told, or no job of ours wrote, is left out.
"""

from collections.abc import Iterator

from job.contract import keys
from job.contract.events import Event, Progress, TrainingStarted, decode_log
from job.contract.schema import ContractError
from launcher.errors import ObjectMissing
from launcher.model import RunRecord
from launcher.observe import MESSAGE_BYTES_MAX
from launcher.ports import Store

HEADER = "step,epoch,loss"


def loss_table(record: RunRecord, store: Store) -> str:
    """Return every step's loss as CSV, in the order of steps, without any the job did not tell.

    A step that was made again after an interruption has the loss of the last time. Raises StorageError.
    """
    losses: dict[int, float] = {}
    per_epoch = 0
    for event in _events(record, store):
        if isinstance(event, TrainingStarted):
            per_epoch = event.steps_per_epoch
        elif isinstance(event, Progress):
            losses |= {step: loss for step, loss in event.losses if step > 0}
    rows = [
        f"{step},{(step - 1) // per_epoch + 1 if per_epoch else ''},{losses[step]!r}"
        for step in sorted(losses)
    ]
    return "\n".join([HEADER, *rows]) + "\n"


def _events(record: RunRecord, store: Store) -> Iterator[Event]:
    for attempt in record.attempts:
        prefix = keys.attempt_prefix(record.run_id, attempt.number)
        sizes = {item.key: item.size for item in store.list(f"{prefix}lives/")}
        for life in keys.lives():
            key = prefix + keys.events(life)
            if sizes.get(key, MESSAGE_BYTES_MAX + 1) > MESSAGE_BYTES_MAX:
                continue
            try:
                log = decode_log(store.get(key)[0])
            except (ContractError, ObjectMissing):
                continue
            yield from (event for event in log if event.attempt == attempt.number)
