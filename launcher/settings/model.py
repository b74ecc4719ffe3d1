"""The settings that there are: sections, keys, defaults, limits.

Knows the contract's recipe and pydantic; not where values come from. `retrain init` writes the docstrings of
the fields beside them.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from job.contract.recipe import Recipe
from launcher.settings.base import Dollars, Endpoint, FilePath, Seconds, Section
from launcher.settings.pods import Docker, Pod, Runpod

ENVIRONMENT_PREFIX = "RETRAIN_"
NESTING = "__"


class Provider(StrEnum):
    """Where pods run."""

    PROCESS = "process"
    """A process of this machine."""
    DOCKER = "docker"
    """A container of a Docker engine."""
    RUNPOD = "runpod"
    """A rented GPU."""


class PresetName(StrEnum):
    """A set of defaults under the user's own settings."""

    TINYPUNKS = "tinypunks"
    """The tiny model and data set that come with retrain: minutes on two CPU cores."""
    SD15 = "sd15"
    """Stable Diffusion 1.5, as the model's defaults have it."""


def preset_of(provider: Provider) -> PresetName:
    """Return the preset that goes with a provider where none is set."""
    return PresetName.TINYPUNKS if provider is Provider.PROCESS else PresetName.SD15


class Run(Section):
    """What is trained, from what, and where."""

    training_zip: FilePath | None = None
    """Zip or folder of captioned images. Not set: the example that comes with retrain."""
    base_model: FilePath | None = None
    """Folder of a diffusers model, or a zip of one. Not set: the example's tiny model."""
    init_weights: FilePath | None = None
    """A LoRA to go on from (.safetensors). Not set: a fresh one."""
    provider: Provider = Provider.PROCESS
    """Where the pod runs: a process of this machine, a container of a Docker engine, or a rented GPU."""
    preset: PresetName | None = None
    """Defaults below everything set here. Not set: by provider, tinypunks for process, else sd15."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]{1,16}$")] = "default"
    """Part of every pod's name: retrain ends pods of its own namespace only. 1 to 16 of a-z and 0-9."""
    models_dir: FilePath = Path("models")
    """Where checkpoints and the report come home."""
    workspace: FilePath = Path(".retrain")
    """Where retrain keeps its own files on this machine."""


class Budget(Section):
    """What a run may cost; no setting changes the deadline of an attempt that has started."""

    cap_dollars: Annotated[Dollars, Field(gt=0)] = 5.0
    """The most a run may spend, all attempts together, in US dollars."""
    max_hours: Annotated[float, Field(gt=0, le=24 * 30, allow_inf_nan=False)] = 10.0
    """The longest a run may take, in hours of wall clock."""
    teardown_reserve_minutes: Annotated[float, Field(gt=0, le=24 * 60, allow_inf_nan=False)] = 10.0
    """Time kept back to end the pod, in minutes; it counts towards cap and hours."""
    price_ceiling: Annotated[Dollars, Field(gt=0)] | None = None
    """The most a machine may cost in US dollars per hour. Not set: the price of the offer taken."""
    local_price_per_hour: Dollars = 0.0
    """What an hour of this machine costs in US dollars, electricity for instance."""

    @model_validator(mode="after")
    def _reserve_fits(self) -> Self:
        if self.teardown_reserve_minutes >= self.max_hours * 60:
            raise ValueError("teardown_reserve_minutes must be shorter than max_hours")
        return self


class Clocks(Section):
    """How long to wait before acting, all in seconds."""

    create_lag: Seconds = 120
    """How long a rented pod may be missing from its provider's list: until then, absence proves nothing."""
    provision: Seconds = 300
    """From create to a running pod."""
    boot: Seconds = 1200
    """From a running pod to training; visible progress starts it anew."""
    boot_hard: Seconds = 1800
    """From a running pod to training, whatever is visible."""
    capacity: Seconds = 7200
    """How long to wait, at no cost, for a machine where none is to be had."""
    silence: Seconds = 600
    """Without a heartbeat, by the store's time, before a pod counts as dead."""
    step_stall: Seconds = 900
    """Without a training step."""
    heartbeat: Seconds = 15
    """Between two heartbeats of the job."""
    progress: Seconds = 10
    """Between two progress reports of the job, at least."""
    poll: Seconds = 5
    """Between two looks of the launcher."""
    lease: Seconds = 60
    """How long a launcher owns a run without renewing."""
    state_every: Seconds = 300
    """Between two resume states of the job, at least."""
    grace: Seconds = 20
    """From asking a child process to end to killing it."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        for shorter, longer in (("boot", "boot_hard"), ("heartbeat", "silence"), ("poll", "lease")):
            if getattr(self, shorter) > getattr(self, longer):
                raise ValueError(f"{shorter} must not be longer than {longer}")
        return self


class Evaluation(Section):
    """What is drawn and measured after training."""

    enabled: bool = True
    """Whether every saved epoch is drawn and measured."""
    prompts: Annotated[int, Field(ge=1, le=1000)] = 24
    """Images drawn for each epoch."""
    inference_steps: Annotated[int, Field(ge=1, le=1000)] = 25
    """Denoising steps for each image."""
    guidance_scale: Annotated[float, Field(ge=1, le=30, allow_inf_nan=False)] = 7.0
    """Classifier-free guidance; 1 is none."""
    batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    """Images drawn at once."""
    measure_start: bool = True
    """Whether the start, before any training, is drawn too, to compare with."""


class Storage(Section):
    """The bucket through which launcher and pod talk."""

    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] | None = None
    """Name of an S3 bucket. Not set: a store on this machine, started when needed."""
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]+/)*[A-Za-z0-9._-]*$", max_length=200)] = ""
    """Put before every key, to share a bucket."""
    endpoint_url: Endpoint | None = None
    """Where this machine reaches the store. Not set: AWS."""
    pod_endpoint_url: Endpoint | None = None
    """Where the pod reaches it, if that differs."""
    region: str | None = None
    """The bucket's region. Not set: as the AWS tools find it."""
    access_key: Annotated[str, Field(pattern=r"^[!-~]+$")] | None = None
    """Not set: as the AWS tools find it. Better in the environment than in a file."""
    secret_key: SecretStr | None = None
    """Belongs to access_key."""
    session_token: SecretStr | None = None
    """Of temporary credentials."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key must be set together")
        if self.session_token is not None and self.secret_key is None:
            raise ValueError("session_token needs access_key and secret_key")
        if self.bucket is None and self.endpoint_url is not None:
            raise ValueError("endpoint_url needs a bucket")
        return self


def _resolution_parsed(value: object) -> object:
    """Accept the manual page's "512,512", and "512" for a square."""
    if not isinstance(value, Mapping) or "resolution" not in value:
        return value
    sides = value["resolution"]
    if isinstance(sides, int):
        sides = [sides]
    elif isinstance(sides, str):
        sides = [side.strip() for side in sides.split(",")]
    if isinstance(sides, list) and len(sides) == 1:
        sides = sides * 2
    return {**value, "resolution": sides}


class Settings(BaseSettings):
    """All settings of a command. `recipe.model_fields_set` tells what some layer set."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        enable_decoding=False,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter=NESTING,
        env_ignore_empty=True,
    )

    run: Run = Run()
    recipe: Annotated[Recipe, BeforeValidator(_resolution_parsed)] = Recipe()
    budget: Budget = Budget()
    clocks: Clocks = Clocks()
    evaluation: Evaluation = Evaluation()
    storage: Storage = Storage()
    pod: Pod = Pod()
    docker: Docker = Docker()
    runpod: Runpod = Runpod()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is passed and nothing else: `load_settings` puts the layers together."""
        return (init_settings,)

    @property
    def preset(self) -> PresetName:
        """The preset in force: the one set, else the provider's."""
        return self.run.preset or preset_of(self.run.provider)
