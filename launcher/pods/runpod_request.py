"""The request that creates a RunPod pod. Strict: a field that the API does not know cannot be sent."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_serializer, model_validator
from pydantic.alias_generators import to_camel

from launcher.pods.runpod_models import Cloud, RentableCloud

CUDA_VERSION = r"^\d+\.\d+$"
MAX_VARIABLES = 50
"""Environment variables that RunPod takes for one pod."""


class _Request(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class GpuRequest(_Request):
    """One GPU type; falling back to another is the caller's loop."""

    id: Annotated[str, Field(min_length=1)]
    count: Annotated[int, Field(ge=1)] = 1
    """Always sent: left out, the API answers that there are no instances."""
    min_cuda_version: Annotated[str, Field(pattern=CUDA_VERSION)] | None = None
    """Keeps hosts away whose driver is too old for the image."""


class PersistentMount(_Request):
    """A disk of the host: billed while the pod is stopped, gone with it."""

    size: Annotated[int, Field(ge=10)]
    """GB."""
    path: Annotated[str, Field(min_length=1)]


class NetworkMount(_Request):
    """A network volume of the account."""

    volume_id: Annotated[str, Field(min_length=1)]
    path: Annotated[str, Field(min_length=1)]


class Mounts(_Request):
    """What is mounted: a host's disk or a network volume, not both."""

    persistent: PersistentMount | None = None
    network: Annotated[tuple[NetworkMount, ...], Field(min_length=1, max_length=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.persistent and self.network:
            raise ValueError("persistent and network mounts exclude each other")
        return self


class CreatePod(_Request):
    """A GPU pod to create. `name` is what finds it again after an ambiguous answer."""

    name: Annotated[str, Field(min_length=1)]
    image: Annotated[str, Field(min_length=1)]
    gpu: GpuRequest
    cloud: RentableCloud = Cloud.SECURE
    disk: Annotated[int, Field(ge=1)]
    """GB; wiped when the container starts again."""
    env: Annotated[Mapping[str, SecretStr], Field(max_length=MAX_VARIABLES)] = {}
    args: str | None = None
    """Replaces the image's CMD."""
    ports: tuple[str, ...] = ()
    registry: str | None = None
    """Id of the registry credential for a private image."""
    data_center_ids: tuple[str, ...] = ()
    """A preference; empty for any."""
    mounts: Mounts | None = None

    @field_serializer("env", when_used="json")
    def _in_clear_on_the_wire(self, env: Mapping[str, SecretStr]) -> dict[str, str]:
        return {name: value.get_secret_value() for name, value in env.items()}

    def wire(self) -> bytes:
        """Return the request's body. It holds secrets in clear."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()
