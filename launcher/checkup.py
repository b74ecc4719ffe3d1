"""What `retrain doctor` finds: one line for each thing, with its fix. Checks ask side by side, within a time.

Knows the errors; who checks what is elsewhere.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from launcher.errors import RetrainError
from launcher.machine.clock import SystemClock

SKEW_SECONDS_MAX = 60
"""Stores refuse signatures that are 15 minutes off; a minute is a clock that nobody sets."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    ok: bool | None
    """None where it cannot be told from here."""
    detail: str
    fix: str = ""
    """What to do about it; empty where all is well."""


def failed(check: str, error: RetrainError) -> Finding:
    """Return what an error says as a finding."""
    return Finding(check, ok=False, detail=str(error), fix=error.next_step)


def clock_finding(check: str, ours: datetime, theirs: datetime, whose: str) -> Finding:
    """Compare this machine's clock with the `Date` of an answer, which has whole seconds."""
    # Its mean lies half a second later.
    skew = (ours - theirs).total_seconds() - 0.5
    ok = abs(skew) <= SKEW_SECONDS_MAX
    detail = f"this machine is {skew:+.1f} s from {whose}, ± 0.5 s"
    return Finding(check, ok=ok, detail=detail, fix="" if ok else "Set the clock of this machine (NTP).")


@dataclass
class Check:
    """Asks somebody who may be slow or dead. `ask` yields findings as they come."""

    name: str
    ask: Callable[[], Iterable[Finding]]
    _found: list[Finding] = field(default_factory=list)
    _bug: Exception | None = None
    _done: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Ask in a thread of its own, which is left behind where it hangs."""
        threading.Thread(target=self._run, name=f"check {self.name}", daemon=True).start()

    def findings(self, seconds: float) -> Sequence[Finding]:
        """Return what was found within that time; a bug's exception goes on up."""
        in_time = self._done.wait(max(0.0, seconds))
        if self._bug is not None:
            raise self._bug
        found = [*self._found]
        if not in_time:
            fix = "check the network, and try again"
            found.append(Finding(self.name, ok=False, detail="no whole answer in time", fix=fix))
        return found

    def _run(self) -> None:
        try:
            for finding in self.ask():
                self._found.append(finding)
        except RetrainError as error:
            self._found.append(failed(self.name, error))
        except Exception as error:  # noqa: BLE001 - raised again where it is seen
            self._bug = error
        finally:
            self._done.set()


def ask_all(checks: Iterable[Check], *, seconds: float) -> Iterator[Finding]:
    """Ask all at once and yield what they find, in their order, within `seconds` altogether."""
    clock = SystemClock()
    until = clock.monotonic() + seconds
    asked = [*checks]
    for check in asked:
        check.start()
    for check in asked:
        yield from check.findings(until - clock.monotonic())
