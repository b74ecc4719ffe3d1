"""The connection to a Docker engine: one method for each request that retrain makes of it.

Found as the docker command finds it: DOCKER_HOST, else the current context, else this machine's socket. An
answer that is not what the engine promises is an error, never an empty list. Knows the `docker` package;
nothing of pods.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from json import JSONDecodeError

import docker
from docker.api.client import APIClient
from docker.errors import APIError, DockerException
from docker.types import DeviceRequest, LogConfig
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from requests.exceptions import RequestException, Timeout
from urllib3.exceptions import HTTPError

from launcher.errors import PodError
from launcher.judgement import plain
from launcher.machine.loopback import is_loopback

ANSWER_SECONDS = 30
"""For any answer. A create that comes to something later is found by its name."""
SHM_BYTES = 2 * 1024**3
"""The most that workers of a data loader may share; the engine's own 64 MB end them with a bus error."""
LOG_OPTIONS = {"max-size": "10m", "max-file": "2"}
"""The newest of a container's output is kept, the oldest let go of."""
NOT_FOUND = 404
CONFLICT = 409
_NAMED_PIPE = "http+docker://localnpipe"


class EngineError(PodError):
    """The engine refused, or did not answer."""

    def __init__(self, message: str, *, status: int | None = None, detail: str = "", next_step: str = ""):
        super().__init__(message, next_step=next_step)
        self.status = status
        """Of HTTP; None without an answer: then what was asked for may yet happen."""
        self.detail = detail
        """The engine's own words, as one line."""


class Container(BaseModel):
    """A row of the engine's list."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(alias="Id", min_length=1)
    state: str = Field(alias="State", min_length=1)
    created: int = Field(alias="Created", gt=0)
    """Epoch seconds, by the engine's clock."""
    labels: Mapping[str, str] = Field(alias="Labels")


class EngineInfo(BaseModel):
    """What an engine says of itself."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(alias="ID", min_length=1)
    name: str = Field(alias="Name")
    version: str = Field(alias="ServerVersion")
    system: str = Field(alias="OSType")
    """What its containers run on: linux or windows."""
    now: datetime = Field(alias="SystemTime")
    """By its clock, when it said so."""
    runtimes: Mapping[str, object] = Field(alias="Runtimes", default={})

    @property
    def has_nvidia_runtime(self) -> bool:
        """Whether NVIDIA's container toolkit is set up, as far as an engine tells."""
        return "nvidia" in self.runtimes


_CONTAINERS = TypeAdapter(list[Container])


@dataclass(frozen=True)
class NewContainer:
    """What a container is made from."""

    name: str
    image: str
    environment: Mapping[str, str] = field(repr=False)
    """Holds a bearer URL: never shown."""
    labels: Mapping[str, str]
    all_gpus: bool
    network: str | None
    """None for the engine's own default."""
    proxies: bool
    """Whether it gets the proxies that the docker command is configured to give to containers."""


class Engine:
    """One engine; connected to by the first request. Every method raises EngineError."""

    def __init__(self, connect: Callable[[], APIClient] | None = None) -> None:
        self._connect = connect or _from_environment
        self._connected: APIClient | None = None

    def info(self) -> EngineInfo:
        """Return what the engine says of itself."""
        with _asking("describe itself"):
            return EngineInfo.model_validate(self._client().info())

    def is_on_this_machine(self) -> bool:
        """Tell whether the way to the engine does not leave this machine."""
        with _asking("answer"):
            address = self._client().base_url
        return address == _NAMED_PIPE or is_loopback(address)

    def containers(self, label: str) -> list[Container]:
        """Return all containers with a label, `name` or `name=value`, those that ended included."""
        with _asking("list containers"):
            return _CONTAINERS.validate_python(self._client().containers(all=True, filters={"label": label}))

    def create(self, new: NewContainer) -> str:
        """Make a container, not yet started, and return its id."""
        with _asking("create a container"):
            client = self._client()
            host = client.create_host_config(
                network_mode=new.network,
                device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if new.all_gpus else None,
                # A machine that was started again must not start to train by itself: a launcher decides.
                restart_policy={"Name": "no"},
                # Reaps what a killed trainer leaves behind, and hands SIGTERM on to the job.
                init=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                shm_size=SHM_BYTES,
                log_config=LogConfig(type="local", config=LOG_OPTIONS),
            )
            made = client.create_container(
                new.image,
                name=new.name,
                environment=dict(new.environment),
                labels=dict(new.labels),
                host_config=host,
                use_config_proxy=new.proxies,
            )
            return str(made["Id"])

    def start(self, container_id: str) -> None:
        """Start a container; one that runs already goes on."""
        with _asking("start the container"):
            self._client().start(container_id)

    def stop(self, container_id: str, *, grace_seconds: int) -> None:
        """Send SIGTERM, after the grace SIGKILL; one that does not run stays as it is."""
        with _asking("stop the container"):
            self._client().stop(container_id, timeout=grace_seconds)

    def remove(self, container_id: str) -> None:
        """Remove a container, its log and its anonymous volumes; kill it where it still runs."""
        with _asking("remove the container"):
            self._client().remove_container(container_id, v=True, force=True)

    def logs(self, container_id: str, *, tail: int) -> str:
        """Return the newest lines that a container wrote to stdout and stderr."""
        with _asking("show the container's output"):
            return self._client().logs(container_id, tail=tail).decode(errors="replace")

    def has_image(self, image: str) -> bool:
        """Tell whether an image is there."""
        try:
            with _asking("look for the image"):
                self._client().inspect_image(image)  # type: ignore[no-untyped-call]
        except EngineError as error:
            if error.status == NOT_FOUND:
                return False
            raise
        return True

    def pull(self, image: str) -> Iterator[tuple[int, int]]:
        """Fetch an image; yield bytes downloaded and bytes known of so far, as the engine tells them."""
        layers: dict[str, tuple[int, int]] = {}
        with _asking("pull the image"):
            for line in self._client().pull(image, stream=True, decode=True):
                if problem := line.get("error"):
                    detail = plain(str(problem))
                    raise EngineError(f"the Docker engine could not pull the image: {detail}", detail=detail)
                progress = line.get("progressDetail") or {}
                if line.get("status") == "Downloading" and "total" in progress:
                    layers[line["id"]] = (progress["current"], progress["total"])
                elif line.get("status") == "Download complete" and line.get("id") in layers:
                    layers[line["id"]] = (layers[line["id"]][1],) * 2
                yield sum(done for done, _ in layers.values()), sum(total for _, total in layers.values())

    def _client(self) -> APIClient:
        if self._connected is None:
            self._connected = self._connect()
        return self._connected


def _from_environment() -> APIClient:
    return docker.from_env(timeout=ANSWER_SECONDS).api


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Translate what goes wrong while the engine is asked to do `what`."""
    try:
        yield
    except APIError as error:
        status = error.status_code
        detail = plain(str(error.explanation or ""))
        raise EngineError(
            f"the Docker engine refused to {what} (HTTP {status}): {detail}", status=status, detail=detail
        ) from error
    except (ValidationError, JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"what answers in the Docker engine's place does not answer as one; it was to {what}",
            next_step="check DOCKER_HOST and the docker context",
        ) from error
    except (DockerException, RequestException, HTTPError, OSError, ValueError) as error:
        raise _unreachable(error, what) from error


def _unreachable(error: BaseException, what: str) -> EngineError:
    """Say why no answer came: the SDK's errors wrap what happened several times over."""
    causes = list(_causes(error))
    if any(isinstance(cause, PermissionError) for cause in causes):
        return EngineError(
            "this user may not talk to the Docker engine",
            next_step="add the user to the group docker and log in again, or use rootless Docker",
        )
    if any(isinstance(cause, FileNotFoundError | ConnectionRefusedError) for cause in causes):
        return EngineError(
            "no Docker engine answers",
            next_step="start Docker, or name an engine with DOCKER_HOST; `docker info` shows who answers",
        )
    if any(isinstance(cause, Timeout | TimeoutError) for cause in causes):
        return EngineError(
            f"the Docker engine did not {what} within {ANSWER_SECONDS} s",
            next_step="`docker info` shows whether it answers",
        )
    return EngineError(
        f"the Docker engine cannot be reached to {what} ({type(causes[-1]).__name__})",
        next_step="`docker info` shows whether it answers; check DOCKER_HOST and the docker context",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
