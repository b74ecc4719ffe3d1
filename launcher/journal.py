"""The records in the bucket: conditional writes under a lease, and one open run for each name.

Knows the store as a port. A launcher acts on a run only while it holds the run's lease; what a user wishes
(cancel) any launcher may write.
"""

import json
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from job.contract import keys
from job.contract.schema import ContractError, decode
from launcher.errors import (
    LeaseHeld,
    ObjectMissing,
    PreconditionFailed,
    RetrainError,
    StorageError,
    UnreadableRecord,
    UsageError,
)
from launcher.machine.processes import ProcessIdentity
from launcher.model import Lease, RunRecord, seconds_between
from launcher.money.billing import Bill
from launcher.ports import Store

RECORD_FOLLOWS_SECONDS = 120
"""A lock on a name without a record is free after this; the two are written one right after the other."""
CONFLICTS_MAX = 10
"""Conditional writes that may lose in a row before giving up: only wishes compete with a lease's holder."""


def this_launcher() -> str:
    """Return who this process is, so that another launcher on this machine can tell when it has died."""
    return json.dumps({"host": socket.gethostname(), **ProcessIdentity.current().to_json()}, sort_keys=True)


def holder_is_dead(holder: str) -> bool:
    """Whether a lease's holder was a process of this very machine and boot, and ended: proof, no guess."""
    try:
        fields = json.loads(holder)
        identity = ProcessIdentity.from_json(fields)
        here = ProcessIdentity.current()
        same_host = fields["host"] == socket.gethostname() and identity.boot_id == here.boot_id
        return same_host and not identity.is_alive()
    except (ValueError, KeyError, TypeError):
        return False


@dataclass
class Held:
    """A run under this launcher's lease: the record as last written, and its ETag."""

    record: RunRecord
    etag: str
    lost: bool = False
    """Whether another launcher has the lease now: then nothing may be written any more."""


class Journal:
    """Reads and writes the records of all runs in one bucket."""

    def __init__(self, store: Store, holder: str) -> None:
        self._store = store
        self._holder = holder

    def read(self, run_id: str) -> RunRecord:
        """Return a run's record. Raises UsageError when there is none."""
        return self._read(run_id)[0]

    def run_ids(self) -> tuple[str, ...]:
        """Return the ids of all runs, oldest first: an id begins with its time."""
        listed = self._store.list(keys.RECORDS_PREFIX)
        return tuple(
            sorted(item.key.removeprefix(keys.RECORDS_PREFIX).removesuffix(".json") for item in listed)
        )

    def records(self, say: Callable[[str], None], *, newest: int | None = None) -> tuple[RunRecord, ...]:
        """Return every record that can be read, oldest first; of the others `say` is told.

        With `newest`, only so many of the last ones are looked at.
        """
        found = []
        for run_id in self.run_ids()[-newest if newest else None :]:
            try:
                found.append(self.read(run_id))
            except UnreadableRecord as error:
                say(f"{error}; whatever pod it has is not looked after: {error.next_step}")
        return tuple(found)

    def is_open(self, name: str) -> bool:
        """Whether a run of this output name is open."""
        try:
            data, _ = self._store.get(keys.name_lock_key(name))
        except ObjectMissing:
            return False
        return not self._is_over(_read_lock(data, name), name)

    def create(self, record: RunRecord, *, prepare: Callable[[], None] = lambda: None) -> Held:
        """Write a new run, under this launcher's lease from the first moment.

        `prepare` is called when the name is ours and nothing is on record yet; what it raises goes on up.
        Raises UsageError when a run of the same name is open.
        """
        self._lock_name(record)
        prepare()
        record = self._leased(record)
        etag = self._store.put(keys.record_key(record.run_id), record.encode(), if_absent=True)
        return Held(record, etag)

    def look_up(self, run_id: str) -> Held:
        """Return a run to look at, without its lease. Raises LeaseHeld while another launcher has it."""
        record, etag = self._read(run_id)
        self._refuse_if_leased(record)
        return Held(record, etag)

    def leave(self, held: Held, record: RunRecord) -> None:
        """Write the record over the very one that was looked up, and leave the run to whoever comes next.

        Raises LeaseHeld when somebody wrote meanwhile: what was decided may be wrong now, and is not kept.
        """
        try:
            self._put(held, record.model_copy(update={"lease": None}))
        except PreconditionFailed as error:
            raise LeaseHeld(f"run {record.run_id} changed while it was looked at") from error

    def lease_of_another(self, record: RunRecord) -> Lease | None:
        """Return the lease of another launcher that may be alive, None where the run is free to take."""
        lease = record.lease
        if (
            lease is None
            or lease.holder == self._holder
            or lease.until <= self._store.now()
            or holder_is_dead(lease.holder)
        ):
            return None
        return lease

    def acquire(self, run_id: str) -> Held:
        """Take the lease of a run. Raises LeaseHeld while another launcher that may be alive holds it."""
        record, etag = self._read(run_id)
        self._refuse_if_leased(record)
        record = self._leased(record)
        try:
            etag = self._store.put(keys.record_key(run_id), record.encode(), if_match=etag)
        except PreconditionFailed as error:
            raise LeaseHeld(f"another launcher took run {run_id} at this moment") from error
        return Held(record, etag)

    def write(self, held: Held, record: RunRecord) -> None:
        """Write the record and renew the lease. `held` is brought up to date.

        Raises LeaseHeld when the lease was lost meanwhile: then nothing more may be done to the run.
        """
        for _ in range(CONFLICTS_MAX):
            try:
                self._put(held, self._leased(record))
            except PreconditionFailed:
                self._reread(held)
                if not record.phase.closed:
                    record = record.model_copy(update={"cancel_requested": held.record.cancel_requested})
                continue
            return
        raise StorageError(f"the record of run {record.run_id} changed on each of {CONFLICTS_MAX} writes")

    def refresh(self, held: Held) -> None:
        """Take over what the bucket holds: a wish of another launcher, a write of ours whose answer was lost.

        Raises LeaseHeld when the lease was lost.
        """
        self._reread(held)

    def release(self, held: Held) -> None:
        """Give the lease back. Best effort: it runs out by itself."""
        if held.lost:
            return
        with suppress(RetrainError):
            for _ in range(CONFLICTS_MAX):
                # Who leaves in the middle of a write does not know which of two records is there, nor whether
                # that write is still on its way.
                self._reread(held)
                with suppress(PreconditionFailed):
                    self._put(held, held.record.model_copy(update={"lease": None}))
                    return

    def request_cancel(self, run_id: str) -> RunRecord:
        """Write the wish to cancel, whoever holds the lease. Returns the record with it."""
        for _ in range(CONFLICTS_MAX):
            record, etag = self._read(run_id)
            if record.phase.closed or record.cancel_requested:
                return record
            record = record.model_copy(update={"cancel_requested": True})
            try:
                self._store.put(keys.record_key(run_id), record.encode(), if_match=etag)
            except PreconditionFailed:
                continue
            return record
        raise StorageError(f"the record of run {run_id} changed on each of {CONFLICTS_MAX} writes")

    def keep_bills(self, run_id: str, bills: Sequence[Bill]) -> RunRecord:
        """Write what a closed run's pods cost: of such a record nothing else changes. Returns the record."""
        for _ in range(CONFLICTS_MAX):
            record, etag = self._read(run_id)
            if not record.phase.closed:
                return record
            told = {bill.pod_id: bill for bill in (*record.bills, *bills)}
            record = record.model_copy(update={"bills": tuple(told.values())})
            try:
                self._store.put(keys.record_key(run_id), record.encode(), if_match=etag)
            except PreconditionFailed:
                continue
            return record
        raise StorageError(f"the record of run {run_id} changed on each of {CONFLICTS_MAX} writes")

    def _lock_name(self, record: RunRecord) -> None:
        """Take the lock on the run's name. It is never deleted: a closed run's lock is free to take."""
        name = record.spec.output_name
        key = keys.name_lock_key(name)
        content = json.dumps({"run_id": record.run_id, "holder": self._holder}).encode()
        try:
            self._store.put(key, content, if_absent=True)
            return
        except PreconditionFailed:
            data, etag = self._store.get(key)
        lock = _read_lock(data, name)
        other = lock.run_id
        if other == record.run_id:
            return
        if not self._is_over(lock, name):
            raise UsageError(
                f"run {other} with the output name {name} is still open",
                next_step=f"follow it with `retrain attach {other}`, end it with `retrain cancel {other}`,"
                " or choose another output name",
            )
        try:
            self._store.put(key, content, if_match=etag)
        except PreconditionFailed as error:
            raise UsageError(f"another run with the output name {name} began at this moment") from error

    def _is_over(self, lock: "_NameLock", name: str) -> bool:
        """Whether the run that holds a name's lock is closed."""
        # Asked before the record is looked for: who is dead by then writes none afterwards.
        holder_died = holder_is_dead(lock.holder)
        try:
            return self._read(lock.run_id)[0].phase.closed
        except UsageError:
            # No record: its launcher is about to write it, or died between the two and started nothing.
            if holder_died:
                return True
            locked = self._store.list(keys.name_lock_key(name))
            age = seconds_between(locked[0].modified_at, self._store.now()) if locked else 0.0
            return age > RECORD_FOLLOWS_SECONDS

    def _reread(self, held: Held) -> None:
        """Bring `held` up to the bucket, record and ETag together: who leaves in between must not write the
        one over the other. Raises LeaseHeld when the record is no longer ours to write.
        """
        theirs, etag = self._read(held.record.run_id)
        if theirs.lease is None or theirs.lease.holder != self._holder:
            held.lost = True
            raise LeaseHeld(f"another launcher took over run {held.record.run_id}")
        held.record, held.etag = theirs, etag

    def _put(self, held: Held, record: RunRecord) -> None:
        """Write the record over what `held` holds. Raises PreconditionFailed when that is there no more."""
        data = record.encode()
        try:
            # What cannot be read again must not replace what can.
            decode(RunRecord, data)
        except ContractError as error:
            raise UnreadableRecord(f"a record that nobody could read was not written: {error}") from error
        held.etag = self._store.put(keys.record_key(record.run_id), data, if_match=held.etag)
        held.record = record

    def _refuse_if_leased(self, record: RunRecord) -> None:
        lease = self.lease_of_another(record)
        if lease is not None:
            raise LeaseHeld(
                f"another launcher works on run {record.run_id}, {who(lease.holder)};"
                f" if it died there, the run is free at {lease.until:%H:%M:%S} UTC",
                next_step=f"leave it to that one: `retrain status {record.run_id}` shows how far it is,"
                f" `retrain cancel {record.run_id}` ends the run",
            )

    def _read(self, run_id: str) -> tuple[RunRecord, str]:
        try:
            data, etag = self._store.get(keys.record_key(run_id))
            return decode(RunRecord, data), etag
        except ObjectMissing as error:
            raise UsageError(
                f"there is no run {run_id}", next_step="`retrain status` lists the runs"
            ) from error
        except ContractError as error:
            raise UnreadableRecord(
                f"the record of run {run_id} cannot be read: {error}",
                next_step="use the version of retrain that wrote it",
            ) from error

    def _leased(self, record: RunRecord) -> RunRecord:
        until = self._store.now() + timedelta(seconds=record.spec.clocks.lease_seconds)
        return record.model_copy(update={"lease": Lease(holder=self._holder, until=until)})


@dataclass(frozen=True)
class _NameLock:
    """Who took a name, and for which run."""

    run_id: str
    holder: str


def _read_lock(data: bytes, name: str) -> _NameLock:
    try:
        fields = json.loads(data)
        return _NameLock(str(fields["run_id"]), str(fields.get("holder", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"the lock on the output name {name} cannot be read: {keys.name_lock_key(name)} in the bucket",
            next_step="where no run of that name is open, delete that object; else choose another name",
        ) from error


def who(holder: str) -> str:
    """Return a lease's holder in words."""
    try:
        fields = json.loads(holder)
        return f"process {fields['pid']} on {fields['host']}"
    except (ValueError, KeyError, TypeError):
        return "holder unknown"
