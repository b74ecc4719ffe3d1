"""What a person watches while a run goes on: a live panel on a terminal, plain lines elsewhere.

Knows the record and the observer; changes nothing.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from job.contract.events import Progress, Sampled
from launcher.cli.narrator import Narrator
from launcher.model import Attempt, Phase, RunRecord, seconds_between
from launcher.money.budget import spent_at_most
from launcher.money.forecast import expected_words, outlook
from launcher.observe import Observer
from launcher.reconcile import Seen

BARS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 48
SILENCE_SHOWN_SECONDS = 60.0
PLAIN_SECONDS = 15.0
"""Between two plain progress lines."""


@contextmanager
def showing(narrator: Narrator) -> Iterator["View"]:
    """Show passes until the context ends: live where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield PlainView(narrator)
        return
    console = Console(stderr=True)
    before = narrator.write
    live = Live(console=console, auto_refresh=False, transient=True)
    live.start()
    narrator.write = lambda line: console.print(line, markup=False, highlight=False)
    try:
        yield LiveView(live)
    finally:
        narrator.write = before
        with suppress(OSError):  # the terminal may be gone
            live.stop()


class View(Protocol):
    """Listens to the loop's passes."""

    def on_pass(self, record: RunRecord, observer: Observer, seen: Seen) -> None:
        """Show where the run stands after a pass."""
        ...


class PlainView:
    """One line now and then, for logs and CI."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._last_at = float("-inf")
        self._last_step = -1
        self._boot_log = ""

    def on_pass(self, record: RunRecord, observer: Observer, seen: Seen) -> None:
        """Say how far training is, when it went on and some seconds have passed."""
        attempt = record.last
        now = time.monotonic()
        if attempt is None or now - self._last_at < PLAIN_SECONDS:
            return
        if record.phase is Phase.BOOTING and attempt.boot_log not in ("", self._boot_log):
            self._last_at, self._boot_log = now, attempt.boot_log
            self._narrator.say(f"the pod comes up: {attempt.boot_log}")
        if record.phase is not Phase.TRAINING or attempt.step == self._last_step:
            return
        self._last_at, self._last_step = now, attempt.step
        progress = latest_progress(observer, attempt)
        if progress is not None:
            self._narrator.say(progress_line(record, progress, seen))


class LiveView:
    """A panel that is drawn anew on each pass."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def on_pass(self, record: RunRecord, observer: Observer, seen: Seen) -> None:
        """Draw the panel."""
        self._live.update(panel(record, observer, seen), refresh=True)


def panel(record: RunRecord, observer: Observer, seen: Seen) -> Panel:
    """Return the live panel of a run."""
    attempt = record.last
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim")
    rows.add_column()
    rows.add_row("phase", record.phase.value.replace("_", " "))
    parts: list[Table | Text] = [rows]
    if attempt is not None:
        _pod_rows(rows, record, observer, attempt, seen)
        progress = latest_progress(observer, attempt)
        if progress is not None:
            _training_rows(rows, record, observer, attempt, progress)
        if record.phase is Phase.EVALUATING and record.spec.evaluation is not None:
            drawn = sum(isinstance(event, Sampled) for event in observer.events.get(attempt.number, ()))
            rows.add_row("evaluated", f"{drawn} checkpoints drawn by this attempt")
        left = seconds_between(seen.now, attempt.stop_at)
        rows.add_row("time left", f"{_span(max(left, 0.0))} until the job must stop")
    expected = outlook(record, seen.now)
    if expected is not None:
        rows.add_row(
            "forecast", Text(expected_words(expected), style="" if expected.finishes else "bold red")
        )
    rows.add_row("dollars", dollars_line(record, seen))
    for item in record.checkpoints():
        parts.append(
            Text(f"  ✓ {item.receipt.name}  {item.receipt.bytes / 1e6:.2f} MB  verified", style="green")
        )
    return Panel(Group(*parts), title=f"{record.spec.output_name} · {record.run_id}", title_align="left")


def _pod_rows(rows: Table, record: RunRecord, observer: Observer, attempt: Attempt, seen: Seen) -> None:
    price = f" at ${attempt.price_per_hour:.3f} an hour" if attempt.price_per_hour else ""
    resumed = f", goes on after epoch {attempt.resumed_epoch}" if attempt.resumed_epoch else ""
    where = f"{attempt.offer} {attempt.offer_location}".rstrip()
    # What others say is text: markup in it would be carried out, or break the view.
    rows.add_row("attempt", Text(f"{attempt.number} on {where}{price}{resumed}"))
    rows.add_row("pod", Text(", ".join(attempt.pod_ids) or "–"))
    if attempt.open and record.phase in (Phase.PROVISIONING, Phase.BOOTING):
        waited = seconds_between(attempt.created_at or attempt.intent_at, seen.now)
        word = attempt.boot_log or "no word from it yet"
        if observer.events.get(attempt.number):
            word = "the job has begun and fetches what it needs"
        rows.add_row("comes up", Text(f"for {_span(waited)}: {word}"))
    if attempt.open and attempt.watch.silent_seconds >= SILENCE_SHOWN_SECONDS:
        limit = record.spec.clocks.silence_seconds
        silent = attempt.watch.silent_seconds
        rows.add_row("silent", f"for {_span(silent)}; given up after {_span(limit)}", style="yellow")


def _span(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _training_rows(
    rows: Table, record: RunRecord, observer: Observer, attempt: Attempt, progress: Progress
) -> None:
    rows.add_row("epoch", f"{progress.epoch} of {record.spec.recipe.max_epochs}")
    rows.add_row("step", f"{progress.step} of {progress.total_steps}{_speed(progress)}")
    total = max(progress.total_steps, 1)
    rows.add_row("", ProgressBar(total=total, completed=progress.step, width=SPARK_WIDTH))
    losses = all_losses(observer, attempt)
    if losses:
        rows.add_row("loss", f"{sparkline(losses)} {mean(losses[-50:]):.4f} (mean of the last 50 steps)")


def progress_line(record: RunRecord, progress: Progress, seen: Seen) -> str:
    """Return training's state in one line."""
    loss = f", loss {mean([value for _, value in progress.losses]):.4f}" if progress.losses else ""
    expected = outlook(record, seen.now)
    forecast = f", {expected_words(expected)}" if expected is not None else ""
    return (
        f"epoch {progress.epoch}/{record.spec.recipe.max_epochs},"
        f" step {progress.step}/{progress.total_steps}{_speed(progress)}{loss}{forecast},"
        f" {dollars_line(record, seen)}"
    )


def dollars_line(record: RunRecord, seen: Seen) -> str:
    """Return what the run has cost at most against its cap."""
    spent = spent_at_most(record, seen.now)
    # In a short or cheap run it is the tenths of a cent that move.
    places = 2 if spent >= 1 else 3
    return f"at most ${spent:.{places}f} of ${record.spec.budget.cap_dollars:.2f}"


def _speed(progress: Progress) -> str:
    speed = progress.steps_per_second
    return f", {speed:.2f} steps/s" if speed is not None and speed > 0 else ""


def latest_progress(observer: Observer, attempt: Attempt) -> Progress | None:
    """Return the newest progress event of an attempt."""
    for event in reversed(observer.events.get(attempt.number, ())):
        if isinstance(event, Progress):
            return event
    return None


def all_losses(observer: Observer, attempt: Attempt) -> list[float]:
    """Return every loss of an attempt in order of step."""
    found = {
        step: loss
        for event in observer.events.get(attempt.number, ())
        if isinstance(event, Progress)
        for step, loss in event.losses
    }
    return [found[step] for step in sorted(found)]


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """Return the values as a row of bars, means over equal parts, lowest to highest."""
    parts = (
        [
            mean(values[index * len(values) // width : (index + 1) * len(values) // width])
            for index in range(width)
        ]
        if len(values) > width
        else list(values)
    )
    low, high = min(parts), max(parts)
    span = (high - low) or 1.0
    return "".join(BARS[int((value - low) / span * (len(BARS) - 1))] for value in parts)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value."""
    return sum(values) / len(values)
