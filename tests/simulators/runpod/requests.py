"""Strict models of what a client may ask: bodies and query strings."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from tests.simulators.runpod.shapes import Action, Cloud, Cuda, Mounts, Shape, Size, Text


class Asked(Shape):
    """What a client sends: a member may be left out, and null is a value only where the API says so."""

    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _no_null(cls, members: Any) -> Any:
        if isinstance(members, dict):
            nulls = [name for name, value in members.items() if value is None and name not in cls.nullable]
            if nulls:
                raise ValueError(f"null is no value of {', '.join(nulls)}")
        return members


class GpuWanted(Asked):
    id: str
    count: Annotated[int, Field(ge=1)] | None = None
    allowed_cuda_versions: list[Cuda] = Field(default_factory=list)
    min_cuda_version: Cuda | None = None


class CpuWanted(Asked):
    id: Text
    vcpu_count: Annotated[int, Field(ge=2)]


class ContainerSettings(Asked):
    nullable = frozenset({"registry"})

    args: str = ""
    disk: Annotated[int, Field(ge=1)] = 20
    env: dict[str, str] = Field(default_factory=dict)
    image: str | None = None
    ports: list[str] = Field(default_factory=list)
    registry: str | None = None
    mounts: Mounts = Mounts()
    template_id: Text | None = None
    global_networking: bool = False


class CreatePod(ContainerSettings):
    name: Text
    cloud: Cloud = "SECURE"
    cpu: CpuWanted | None = None
    gpu: GpuWanted | None = None
    data_center_ids: list[str] = Field(default_factory=list)
    start_jupyter: bool = False
    start_ssh: bool = False

    @model_validator(mode="after")
    def _has_an_image(self) -> "CreatePod":
        if self.template_id is None and self.image is None:
            raise ValueError("image is required unless templateId is set")
        return self


class UpdatePod(ContainerSettings):
    name: Text | None = None
    locked: bool | None = None


class ActOnPod(Asked):
    action: Action


class GraphQuery(Shape):
    query: str
    variables: dict[str, Any] | None = None
    operation_name: str | None = None


class _Query(BaseModel):
    """A query string: values are text, and become what they should be."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, hide_input_in_errors=True, populate_by_name=False
    )


class ListQuery(_Query):
    include_cluster_pods: bool = False
    limit: Annotated[int, Field(ge=1, le=1000)] | None = None
    cursor: str | None = None


class LogsQuery(_Query):
    source: Literal["container", "system"] | None = None
    tail: Annotated[int, Field(ge=0, le=5000)] = 100
    since: AwareDatetime | None = None


class GpusQuery(_Query):
    include: Literal["AVAILABILITY"] | None = None
    product: Literal["POD"] | None = None
    count: Annotated[int, Field(ge=1)] | None = None
    cloud: Cloud | None = None
    min_cuda_version: Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?$")] | None = None


class DataCentersQuery(_Query):
    include: Literal["GPU_AVAILABILITY"] | None = None
    regions: str | None = None


class BillingQueryString(_Query):
    start_time: AwareDatetime | None = None
    end_time: AwareDatetime | None = None
    bucket_size: Size = "day"
    last_n: Annotated[int, Field(ge=1)] | None = None
    pod_id: str | None = None


class NoQuery(_Query):
    """No parameters."""
