"""How fast pods work, measured from what they say of themselves by their own clocks: pure.

Only differences of one pod's times are taken, so that nobody's clock has to agree with another's. What a pod
says may be any number: what cannot be is left out.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field

from job.contract.events import Evaluated, Event, Progress, Sampled, TrainingStarted
from job.contract.schema import Wire

STEPS_MIN = 5
"""Fewer steps than these are warming up and measure nothing."""
STEP_SECONDS_MIN = 1e-4
"""No trainer makes a step in less."""
SPAN_SECONDS_MAX = 30 * 24 * 3600.0
"""No pod works longer: a span above is no measurement."""

Positive = Annotated[float, Field(gt=0)]


class Pace(Wire):
    """What a pod spent its time on, all lives together, by its own clock."""

    steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps within `trained_seconds`."""
    trained_seconds: Annotated[float, Field(ge=0)] = 0.0
    """From the trainer's start of work to the last step told; saving included, loading not."""
    evaluated_seconds: Annotated[float, Field(ge=0)] = 0.0
    """From the last step told to the last images drawn or measured."""

    @property
    def seconds_per_step(self) -> float | None:
        """Seconds of a step, None before enough were made to tell."""
        seconds = self.trained_seconds / self.steps if self.steps >= STEPS_MIN else 0.0
        return seconds if STEP_SECONDS_MIN <= seconds <= SPAN_SECONDS_MAX else None


class Speed(Wire):
    """How fast machines of one offer work; None: not known. Kept with a run, so that all launchers agree."""

    offer: str = ""
    """Name of the offer; empty: any that nothing is measured of."""
    trained: Positive | None = None
    """Pixels trained in a second: images × width × height."""
    drawn: Positive | None = None
    """Pixels × denoising steps drawn in a second."""
    boot_seconds: Annotated[float, Field(ge=0)] | None = None
    """From a pod's creation to its first step."""
    measured: bool
    source: str
    """Where the figures come from, for a person."""


def pace_of(events: Sequence[Event]) -> Pace:
    """Return how the lives of one attempt spent their time. `events` are in order, life after life."""
    steps, trained, evaluated = 0, 0.0, 0.0
    for life in sorted({event.life for event in events}):
        said = [event for event in events if event.life == life]
        started = next((event for event in said if isinstance(event, TrainingStarted)), None)
        told = [event for event in said if isinstance(event, Progress)]
        made = told[-1].step - started.first_step if started is not None and told else 0
        if started is not None and made > 0 and (span := _span(started.at, told[-1].at)) > 0:
            steps += made
            trained += span
        drawn = [event for event in said if isinstance(event, Sampled | Evaluated)]
        began = told[-1] if told else next(iter(said), None)
        if drawn and began is not None:
            evaluated += _span(began.at, drawn[-1].at)
    return Pace(steps=steps, trained_seconds=trained, evaluated_seconds=evaluated)


def _span(start: datetime, end: datetime) -> float:
    """Return the seconds between two moments of one clock, 0 where they make no sense."""
    seconds = (end - start).total_seconds()
    return seconds if 0 < seconds <= SPAN_SECONDS_MAX else 0.0
