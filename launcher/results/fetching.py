"""Several artefacts on their way home: small ones side by side, since each waits for the store more than it
takes; large ones two at a time, since their ranges come side by side already, but one is synced while another
comes.

Knows the ports and the user's folders; not what is written down of it.
"""

import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from job.contract import keys
from job.contract.records import Receipt
from launcher.errors import FileInUse, IntegrityError, LocalDiskError, StorageError
from launcher.model import RunRecord
from launcher.ports import Store
from launcher.results.home import Home
from launcher.results.pullback import BEAT_SECONDS

SMALL_BYTES = 8 << 20
"""No larger than one range: so many at once bound the memory."""
LARGE_AT_ONCE = 2
"""Each takes the memory of the ranges that wait to be written."""


class _Stopped(Exception):
    """Nobody waits for this artefact any more."""


class _CallersOwn(Exception):
    """Carries an error of `on_bytes` past all that would take it for the artefact's."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


@dataclass(frozen=True)
class Fetched:
    """How it went with one artefact: it is at `path`, or there was an `error`."""

    receipt: Receipt
    path: Path | None = None
    error: IntegrityError | StorageError | LocalDiskError | FileInUse | None = None


def fetch_all(
    receipts: Sequence[Receipt],
    record: RunRecord,
    store: Store,
    home: Home,
    *,
    at_once: int,
    on_bytes: Callable[[str, int], None],
) -> Generator[tuple[Fetched, ...]]:
    """Bring artefacts of a run home and yield them as they arrive, all that did since the last time.

    `on_bytes` is called in the caller's thread, at least every few seconds. Its errors end everything, and so
    does closing this generator: what is on its way stops, and what came of it is kept to go on from. Where
    the store is silent in the middle of an answer, that waits for the request's time-out.
    With `at_once` 1 nothing happens in any other order than that of `receipts`.
    """

    def fetch(receipt: Receipt, listener: Callable[[str, int], None]) -> Fetched:
        key = keys.attempt_prefix(record.run_id, receipt.attempt) + receipt.key
        try:
            return Fetched(receipt, home.fetch(store, key, receipt, record, on_bytes=listener))
        except (IntegrityError, StorageError, LocalDiskError, FileInUse) as error:
            return Fetched(receipt, error=error)

    def side_by_side(some: Sequence[Receipt], lanes: int) -> Generator[tuple[Fetched, ...]]:
        stopped = threading.Event()

        def heed(_name: str, _count: int) -> None:
            if stopped.is_set():
                raise _Stopped

        pool = ThreadPoolExecutor(lanes, thread_name_prefix="fetch")
        try:
            coming = {pool.submit(fetch, receipt, heed) for receipt in some}
            while coming:
                done, coming = wait(coming, timeout=BEAT_SECONDS, return_when=FIRST_COMPLETED)
                on_bytes("", 0)
                if done:
                    yield tuple(future.result() for future in done)
        finally:
            # Whoever stops here finds nothing at work behind its back.
            stopped.set()
            pool.shutdown(cancel_futures=True)

    def tell(name: str, count: int) -> None:
        try:
            on_bytes(name, count)
        except Exception as error:
            raise _CallersOwn(error) from error

    small, large, alone = _parted(receipts) if at_once > 1 else ((), (), receipts)
    if small:
        yield from side_by_side(small, at_once)
    if large:
        yield from side_by_side(large, LARGE_AT_ONCE)
    for receipt in alone:
        try:
            fetched = fetch(receipt, tell)
        except _CallersOwn as own:
            raise own.error from own.error.__cause__
        yield (fetched,)


def _parted(receipts: Sequence[Receipt]) -> tuple[Sequence[Receipt], Sequence[Receipt], Sequence[Receipt]]:
    """Return the small and the large ones that may come side by side, and versions of one artefact."""
    versions = Counter((receipt.kind, receipt.epoch) for receipt in receipts)
    single = [receipt for receipt in receipts if versions[receipt.kind, receipt.epoch] == 1]
    if len(single) < 2:
        return (), (), receipts
    small = [receipt for receipt in single if receipt.bytes <= SMALL_BYTES]
    large = [receipt for receipt in single if receipt.bytes > SMALL_BYTES]
    return small, large, [receipt for receipt in receipts if receipt not in single]
