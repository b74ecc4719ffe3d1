"""What finishing a run takes on an offer, in seconds and dollars, before and while it trains. Pure.

An estimate, and it says which of its parts were measured. What it says never outweighs the deadline
arithmetic of `launcher.money.budget`: an offer fits only where that leaves the time.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from job.contract.manifest import evaluated_epochs
from launcher.model import RunRecord, estimated_dollars
from launcher.money.budget import ceiling_of, window
from launcher.money.pace import SPAN_SECONDS_MAX
from launcher.money.speeds import Speeds, drawn_pixels, known_speeds, step_pixels
from launcher.ports import Offer

PartName = Literal["boot", "training", "evaluation", "upload and teardown"]


@dataclass(frozen=True)
class Part:
    """One stretch of an attempt."""

    name: PartName
    seconds: float
    measured: bool


@dataclass(frozen=True)
class Forecast:
    """What is left of a run, on one offer."""

    parts: tuple[Part, ...]
    dollars: float
    source: str
    """Where the speed comes from."""
    epochs: int
    """The last epoch that is saved before the job must stop, 0 where none is."""
    finishes: bool
    """Whether everything is done by then."""

    @property
    def seconds(self) -> float:
        """All parts together."""
        return sum(part.seconds for part in self.parts)


@dataclass(frozen=True)
class Outlook:
    """How a run that trains now will end, by the speed measured on its pod."""

    finishes: bool
    ends_at: datetime
    """When the work is done, or when the job must stop where that comes first."""
    dollars: float
    """Of all attempts by then: an estimate."""
    epoch: int
    """The last epoch that will be saved."""
    evaluation: bool
    """Whether drawing and measuring is reckoned with: nobody may know how long that takes."""


def forecast(record: RunRecord, offer: Offer, now: datetime) -> Forecast | None:
    """Return what finishing takes on an offer, from what is at home on; None where no speed is known.

    A further attempt goes on from the newest checkpoint at home: its resume state is at least as new.
    """
    speeds = known_speeds(record, offer.name)
    images, recipe = record.spec.images, record.spec.recipe
    if speeds.trained is None or not images:
        return None
    done = _epochs_at_home(record)
    epoch_seconds = recipe.steps_per_epoch(images) * step_pixels(recipe) / speeds.trained.value
    boot, drawing = speeds.boot_seconds, _drawing(record, speeds)
    parts = (
        Part("boot", boot.value if boot else 0.0, measured=boot is not None and boot.measured),
        Part("training", epoch_seconds * (recipe.max_epochs - done), measured=speeds.trained.measured),
        drawing,
        Part("upload and teardown", record.spec.budget.reserve_seconds, measured=False),
    )
    span = window(record, ceiling_of(record, offer.price_per_hour), now)
    left = (span.stop_at - now).total_seconds() - parts[0].seconds if span is not None else 0.0
    reached = [epoch for epoch in _epochs_ahead(record) if epoch_seconds * (epoch - done) <= left]
    return Forecast(
        parts=parts,
        dollars=offer.price_per_hour * sum(part.seconds for part in parts) / 3600,
        source=speeds.trained.source,
        epochs=max(reached, default=0),
        finishes=span is not None and parts[1].seconds + drawing.seconds <= left,
    )


def outlook(record: RunRecord, now: datetime) -> Outlook | None:
    """Return how the run will end at the speed its pod shows; None before that is measured."""
    attempt = record.last
    if attempt is None or not attempt.open or not attempt.total_steps:
        return None
    per_step = attempt.pace.seconds_per_step
    if per_step is None:
        return None
    training = max(0, attempt.total_steps - attempt.step) * per_step
    speeds = known_speeds(record, attempt.offer)
    drawing = _drawing(record, speeds).seconds
    work = training + max(0.0, drawing - attempt.pace.evaluated_seconds)
    # Bounded: what a pod says of its steps and times may be any number.
    done_at = now + timedelta(seconds=min(work, SPAN_SECONDS_MAX))
    finishes = done_at <= attempt.stop_at
    ends_at = done_at if finishes else max(now, attempt.stop_at)
    steps = attempt.step + max(0.0, (attempt.stop_at - now).total_seconds()) / per_step
    per_epoch = attempt.total_steps / record.spec.recipe.max_epochs
    reached = [epoch for epoch in record.spec.recipe.saved_epochs if epoch * per_epoch <= steps]
    return Outlook(
        finishes=finishes,
        ends_at=ends_at,
        dollars=sum(estimated_dollars(item, ends_at) for item in record.attempts),
        epoch=max(reached, default=0),
        evaluation=record.spec.evaluation is None or speeds.drawn is not None,
    )


def expected_words(expected: Outlook) -> str:
    """Say when and for how much a run ends."""
    if not expected.finishes:
        return shortfall(expected)
    what = "done" if expected.evaluation else "trained, not yet evaluated,"
    return f"{what} about {expected.ends_at:%H:%M} UTC for about ${expected.dollars:.2f}"


def shortfall(expected: Outlook) -> str:
    """Say how a run ends that does not finish in its time."""
    reached = f"after epoch {expected.epoch}" if expected.epoch else "before the first checkpoint"
    return f"it will stop {reached}: its time under cap and hours is over at {expected.ends_at:%H:%M} UTC"


def _drawing(record: RunRecord, speeds: Speeds) -> Part:
    """Return what drawing and measuring takes of what is not drawn yet; nothing where nobody knows."""
    plan, recipe = record.spec.evaluation, record.spec.recipe
    drawn = {item.epoch for item in record.scores}
    epochs = [epoch for epoch in evaluated_epochs(recipe, plan) if epoch not in drawn]
    if plan is None or not epochs:
        return Part("evaluation", 0.0, measured=True)
    if speeds.drawn is None:
        return Part("evaluation", 0.0, measured=False)
    seconds = len(epochs) * drawn_pixels(recipe, plan) / speeds.drawn.value
    return Part("evaluation", seconds, measured=speeds.drawn.measured)


def _epochs_at_home(record: RunRecord) -> int:
    return max((item.receipt.epoch for item in record.checkpoints()), default=0)


def _epochs_ahead(record: RunRecord) -> list[int]:
    done = _epochs_at_home(record)
    return [epoch for epoch in record.spec.recipe.saved_epochs if epoch > done]
