"""Work that goes on in a thread while its caller stays awake. Knows threads alone."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from queue import Empty, Queue

AHEAD = 8
"""Items that may wait for the caller, which hashes and syncs meanwhile."""
_END_POLL_SECONDS = 0.05


def pulsed(start: Callable[[], Iterator[int]], *, seconds: float) -> Generator[int]:
    """Yield the counts of the iterator that `start` makes, and 0 whenever `seconds` pass without one.

    The iterator runs in a thread of its own, a few items ahead. Its error is raised here. Closing this
    generator ends the thread at the iterator's next item and waits for that: when it returns, nothing works
    on behind the caller's back.
    """
    results: Queue[int | BaseException] = Queue(maxsize=AHEAD)
    stopped = threading.Event()

    def work() -> None:
        end: BaseException = StopIteration()
        try:
            counts = start()
            try:
                for count in counts:
                    results.put(count)
                    if stopped.is_set():
                        break
            finally:
                # Here, not wherever the last reference ends: it holds a file open.
                close = getattr(counts, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # noqa: BLE001 - raised where it belongs, in the caller
            end = error
        results.put(end)

    worker = threading.Thread(target=work, name="download", daemon=True)
    worker.start()
    try:
        while True:
            try:
                result = results.get(timeout=seconds)
            except Empty:
                yield 0
                continue
            if isinstance(result, StopIteration):
                return
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        stopped.set()
        while worker.is_alive():
            with suppress(Empty):
                while True:
                    results.get_nowait()
            worker.join(_END_POLL_SECONDS)
