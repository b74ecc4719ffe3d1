"""The run manifest: all that a pod is told. One object, fetched by one presigned URL."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_serializer, model_validator

from job.contract import keys
from job.contract.recipe import Recipe, TrainerName
from job.contract.schema import Message, Utc, Wire

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]

# The pod's environment: all of it that we set.
MANIFEST_URL_VARIABLE = "RETRAIN_MANIFEST_URL"
DEADLINE_VARIABLE = "RETRAIN_DEADLINE"
"""Absolute UTC, ISO 8601: armed before the first byte is fetched."""
POD_ID_VARIABLE = "RETRAIN_POD_ID"
"""Who the pod is, where the provider does not inject an id of its own."""
SCRATCH_VARIABLE = "RETRAIN_SCRATCH"
"""Folder for everything the job writes to disk; a temporary one where it is not set."""


class Link(Wire):
    """A presigned URL: a bearer secret, never shown."""

    url: SecretStr
    expires_at: Utc

    @field_serializer("url", when_used="json")
    def _in_clear_on_the_wire(self, url: SecretStr) -> str:
        return url.get_secret_value()


class ArtefactKind(StrEnum):
    """What a durable artefact is."""

    CHECKPOINT = "checkpoint"
    STATE = "state"
    SAMPLES = "samples"
    SCORES = "scores"


class InputRole(StrEnum):
    """What an input is for."""

    DATASET = "dataset"
    BASE_MODEL = "base_model"
    INIT_WEIGHTS = "init_weights"
    RULER = "ruler"
    RESUME_STATE = "resume_state"
    CHECKPOINT = "checkpoint"
    """A checkpoint of an earlier attempt that is still to be evaluated."""


class Input(Wire):
    """A file to fetch and verify before work starts."""

    role: InputRole
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,150}$")]
    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256
    link: Link
    epoch: int | None = None
    """Of a checkpoint or resume state: the epoch after which it was written."""
    step: int | None = None
    """Of a checkpoint or resume state: optimizer steps done."""


class SamplePrompt(Wire):
    """One image to draw; the same prompt and seed for every checkpoint and for the start."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")]
    prompt: str
    seed: int
    asked: dict[str, str] = Field(default_factory=dict)
    """Attribute → value that the prompt asks for, where a ruler can tell."""


class EvaluationPlan(Wire):
    """What to draw and how, after training."""

    prompts: tuple[SamplePrompt, ...]
    inference_steps: Annotated[int, Field(ge=1, le=1000)] = 25
    guidance_scale: Annotated[float, Field(ge=1, le=30)] = 7.0
    batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    measure_start: bool = True
    """Whether the untrained start is drawn too, to compare with."""


class Links(Wire):
    """What the pod may do in the bucket, by key relative to its attempt's prefix."""

    get: dict[str, Link]
    put: dict[str, Link]
    create: dict[str, Link]
    """PUT with the signed header `If-None-Match: *`: succeeds once."""


class Timing(Wire):
    """The pod's own clocks, in seconds."""

    heartbeat_seconds: Annotated[float, Field(gt=0)] = 15
    progress_seconds: Annotated[float, Field(gt=0)] = 10
    """At most one progress event in this time, and one with each resume state; each carries all losses since
    the last."""
    step_stall_seconds: Annotated[float, Field(gt=0)] = 900
    grace_seconds: Annotated[float, Field(gt=0)] = 20
    """From SIGTERM to SIGKILL of a child."""
    state_every_seconds: Annotated[float, Field(gt=0)] = 300
    """Resume state is written at an epoch's end, at most this often."""


class RunManifest(Message):
    """Everything a pod needs for one attempt of one run."""

    run_id: RunId
    attempt: Annotated[int, Field(ge=1)]
    trainer: TrainerName
    recipe: Recipe
    inputs: tuple[Input, ...]
    evaluation: EvaluationPlan | None = None
    stop_at: Utc
    hard_deadline: Utc
    timing: Timing = Timing()
    links: Links

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.stop_at >= self.hard_deadline:
            raise ValueError("stop_at must lie before hard_deadline")
        missing = [key for key in keys.overwritten(self.artefacts) if key not in self.links.put]
        missing += [key for key in keys.created_once() if key not in self.links.create]
        missing += [key for key in keys.read_back(self.artefacts) if key not in self.links.get]
        if missing:
            raise ValueError(f"no link for {', '.join(missing[:3])}")
        for role in (InputRole.DATASET, InputRole.BASE_MODEL, InputRole.INIT_WEIGHTS, InputRole.RULER):
            if len(self.inputs_for(role)) > 1:
                raise ValueError(f"more than one input for {role}")
        return self

    @property
    def artefacts(self) -> tuple[str, ...]:
        """Keys of everything durable that this attempt may bring forth."""
        return expected_artefacts(self.recipe, self.evaluation)

    def inputs_for(self, role: InputRole) -> tuple[Input, ...]:
        """Return the inputs of one role, in the manifest's order."""
        return tuple(item for item in self.inputs if item.role is role)

    def input_for(self, role: InputRole) -> Input | None:
        """Return the only input of this role, or None."""
        found = self.inputs_for(role)
        return found[0] if found else None

    def earliest_expiry(self) -> datetime:
        """Return when the first of all links expires."""
        links = [item.link for item in self.inputs]
        for group in (self.links.get, self.links.put, self.links.create):
            links.extend(group.values())
        return min(link.expires_at for link in links)


def evaluated_epochs(recipe: Recipe, plan: EvaluationPlan | None) -> tuple[int, ...]:
    """Return the epochs whose images are drawn, the start (0) included where it is measured."""
    if plan is None:
        return ()
    return ((keys.START_EPOCH,) if plan.measure_start else ()) + recipe.saved_epochs


def expected_results(recipe: Recipe, plan: EvaluationPlan | None) -> dict[str, tuple[ArtefactKind, int]]:
    """Return what may come home: key relative to the attempt → what it is, and of which epoch."""
    results = {
        keys.checkpoint(recipe.checkpoint_name(epoch)): (ArtefactKind.CHECKPOINT, epoch)
        for epoch in recipe.saved_epochs
    }
    for epoch in evaluated_epochs(recipe, plan):
        results[keys.samples(epoch)] = (ArtefactKind.SAMPLES, epoch)
        results[keys.scores(epoch)] = (ArtefactKind.SCORES, epoch)
    return results


def expected_artefacts(recipe: Recipe, plan: EvaluationPlan | None) -> tuple[str, ...]:
    """Return the keys, relative to the attempt, of everything durable it may bring forth."""
    return (*expected_results(recipe, plan), *keys.STATE_SLOTS)
