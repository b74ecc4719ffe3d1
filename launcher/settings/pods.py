"""The settings of pods that are no process of this machine: what they start from, and what is rented."""

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

from launcher.settings.base import Section


class RunpodCloud(StrEnum):
    """Whose machines are rented."""

    SECURE = "SECURE"
    """RunPod's own data centers."""
    COMMUNITY = "COMMUNITY"
    """Its hosts': cheaper, less is promised."""


def _listed(value: object) -> object:
    """Accept "A, B" for a list, as flags and the environment have it."""
    return (
        tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
    )


Listed = BeforeValidator(_listed)
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]([ -~]*[!-~])?$")]
Clouds = Annotated[tuple[RunpodCloud, ...], Field(min_length=1, max_length=2), Listed]
Names = Annotated[tuple[Name, ...], Field(max_length=50), Listed]


class Pod(Section):
    """What a rented pod or a container starts from."""

    image: Annotated[str, Field(pattern=r"^[!-~]*$", max_length=500)] = ""
    """The training image, best with its digest: registry/name@sha256:..."""
    disk_gb: Annotated[int, Field(ge=5, le=2000)] = 40
    """Disk of the container in GB: image, base model, checkpoints, resume states."""


class DockerGpus(StrEnum):
    """Which GPUs of the engine's machine a container gets."""

    AUTO = "auto"
    """All where the engine has NVIDIA's runtime, else none."""
    ALL = "all"
    NONE = "none"


class Docker(Section):
    """Containers of a Docker engine: that of DOCKER_HOST, of the docker context, or this machine's."""

    gpus: DockerGpus = DockerGpus.AUTO
    """GPUs of a container; auto: all where the engine has NVIDIA's runtime, else none."""
    network: Name | None = None
    """Network of a container. Not set: the machine's own for a store on its loopback, else a bridge."""


class Runpod(Section):
    """What is rented at RunPod. The key is RUNPOD_API_KEY, or what `runpod config` stored."""

    gpus: Annotated[Names, Field(min_length=1)] = (
        "NVIDIA A40",
        "NVIDIA RTX A6000",
        "NVIDIA L40S",
        "NVIDIA GeForce RTX 4090",
    )
    """GPU types that may be rented, the preferred one first."""
    clouds: Annotated[tuple[RunpodCloud, ...], Field(min_length=1, max_length=2), Listed] = (
        RunpodCloud.SECURE,
    )
    """Clouds that may be rented from, the preferred one first."""
    data_centers: Names = ()
    """Data centers to try one after the other, for instance EU-RO-1. Empty: any."""
    cheapest: bool = True
    """Whether the offer that should finish for the least money is tried first; else in the order above."""
    min_cuda_version: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = None
    """The oldest CUDA version that a host's driver may support. Not set: any."""
    registry: Name | None = None
    """Id of the registry credential in RunPod's console, for a private image."""
    require_balance: bool = True
    """Whether nothing is rented while the account's balance cannot be read."""
    canary_days: Annotated[int, Field(ge=1, le=365)] = 30
    """How old a live canary's result may be to start a run that nobody watches, in days."""
    reaper_minutes: Annotated[int, Field(ge=1, le=24 * 60)] = 30
    """How long ago a deployed reaper may have been seen to start such a run, in minutes."""
    api_key: SecretStr | None = None
    """Better in the environment as RUNPOD_API_KEY than in a file."""
