"""How fast machines are: measured by earlier runs, else what the manual page says of a GPU. Pure.

A speed counts only for the trainer and the base model that it was measured with: another model is other work.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from job.contract.manifest import EvaluationPlan, InputRole
from job.contract.recipe import Recipe
from launcher.model import Attempt, RunRecord, RunSpec, seconds_between
from launcher.money.pace import Speed

PAGE_IMAGES = 203 * 10
"""Trained in an epoch of the manual page: its images, each ten times."""
PAGE_SIDE = 512
PAGE_EPOCH_SECONDS = 30 * 60.0
"""Of an epoch on an A40; the page says 25 to 30 minutes."""
PAGE_DRAWN_IMAGES = 203
PAGE_DRAWN_STEPS = 25
PAGE_DRAWN_SECONDS = 8 * 60.0
"""Of validating an epoch: the page says two hours for 15."""
PAGE_BOOT_SECONDS = 15 * 60.0
"""Pulling the image and fetching the inputs on a machine that has neither."""

DRAWN_SECONDS_MIN = 0.01
"""Nothing draws an epoch's images in less."""

PAGE = Speed(
    trained=PAGE_IMAGES * PAGE_SIDE**2 / PAGE_EPOCH_SECONDS,
    drawn=PAGE_DRAWN_IMAGES * PAGE_SIDE**2 * PAGE_DRAWN_STEPS / PAGE_DRAWN_SECONDS,
    boot_seconds=PAGE_BOOT_SECONDS,
    measured=False,
    source="manual page, an A40",
)
"""What any GPU is taken for until a run has measured it."""


@dataclass(frozen=True)
class Figure:
    """A number with its origin."""

    value: float
    measured: bool
    source: str


@dataclass(frozen=True)
class Speeds:
    """What a forecast for one offer reckons with, in the units of `Speed`. None: not known."""

    trained: Figure | None
    drawn: Figure | None
    boot_seconds: Figure | None


def measured_speeds(records: Iterable[RunRecord], like: RunSpec) -> tuple[Speed, ...]:
    """Return what earlier runs of the same work as `like` measured: one speed for each offer, the newest.

    `records` are in order of time.
    """
    found: dict[str, Speed] = {}
    for record in records:
        if _work(record.spec) != _work(like):
            continue
        for attempt in record.attempts:
            speed = _speed(record, attempt)
            if speed is not None:
                found[attempt.offer] = _joined(speed, found.get(attempt.offer))
    return tuple(found.values())


def known_speeds(record: RunRecord, offer: str) -> Speeds:
    """Return what is known of an offer: by this very run, by earlier ones, else the estimate."""
    own = measured_speeds([record], record.spec)
    known = [speed for speed in (*own, *record.spec.speeds) if speed.offer == offer]
    known += [speed for speed in record.spec.speeds if not speed.offer]
    return Speeds(
        trained=_first((speed.trained, speed) for speed in known),
        drawn=_first((speed.drawn, speed) for speed in known),
        boot_seconds=_first((speed.boot_seconds, speed) for speed in known),
    )


def step_pixels(recipe: Recipe) -> int:
    """Return the pixels that one full step trains."""
    return recipe.batch_size * recipe.resolution[0] * recipe.resolution[1]


def drawn_pixels(recipe: Recipe, plan: EvaluationPlan) -> int:
    """Return the pixels × denoising steps of one epoch's images."""
    return len(plan.prompts) * plan.inference_steps * recipe.resolution[0] * recipe.resolution[1]


def _work(spec: RunSpec) -> tuple[str, str, str, Sequence[str]]:
    """Return what a speed depends on besides the machine and the number of pixels."""
    base = [item.sha256 for item in spec.inputs if item.role is InputRole.BASE_MODEL]
    return spec.provider, spec.place, spec.trainer.value, base


def _speed(record: RunRecord, attempt: Attempt) -> Speed | None:
    per_step = attempt.pace.seconds_per_step
    if per_step is None:
        return None
    recipe, plan = record.spec.recipe, record.spec.evaluation
    scores = [
        item for item in record.scores if item.attempt == attempt.number and item.seconds > DRAWN_SECONDS_MIN
    ]
    seconds, images = sum(item.seconds for item in scores), sum(item.images for item in scores)
    drawn = None
    if plan is not None and plan.prompts and images:
        drawn = drawn_pixels(recipe, plan) / len(plan.prompts) * images / seconds
    boot = None
    if attempt.created_at is not None and attempt.trains_at is not None:
        boot = seconds_between(attempt.created_at, attempt.trains_at)
    return Speed(
        offer=attempt.offer,
        trained=step_pixels(recipe) / per_step,
        drawn=drawn,
        boot_seconds=boot,
        measured=True,
        source=f"run {record.run_id}",
    )


def _first(known: Iterable[tuple[float | None, Speed]]) -> Figure | None:
    found = ((value, speed) for value, speed in known if value is not None)
    return next((Figure(value, speed.measured, speed.source) for value, speed in found), None)


def _joined(speed: Speed, older: Speed | None) -> Speed:
    """Return a speed whose gaps are filled from an older measurement of the same offer."""
    if older is None:
        return speed
    gaps = [name for name in ("drawn", "boot_seconds") if getattr(speed, name) is None]
    return speed.model_copy(update={name: getattr(older, name) for name in gaps})
