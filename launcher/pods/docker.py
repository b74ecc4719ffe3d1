"""Pods that are containers of a Docker engine, this machine's as a rule.

A pod's id is its name: unique to the attempt, and known before the container is, which tells its job who it
is. Labels tell our containers from a stranger's; a container without them is never touched.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from job.contract.manifest import POD_ID_VARIABLE
from launcher.errors import CreateRefused, PodError, UsageError
from launcher.naming import PodName
from launcher.pods.docker_engine import (
    CONFLICT,
    NOT_FOUND,
    Container,
    Engine,
    EngineError,
    EngineInfo,
    NewContainer,
)
from launcher.ports import Offer, Pod, PodSpec, PodState

POD_LABEL = "retrain.pod"
"""Holds the pod's name."""
NAMESPACE_LABEL = "retrain.namespace"
DEADLINE_LABEL = "retrain.deadline"
HOST_NETWORK = "host"
TERM_SECONDS = 10
"""From SIGTERM to SIGKILL."""
SAY_SECONDS = 10.0
"""Between two words on how far an image is."""
_STATES = {"created": PodState.STARTING, "exited": PodState.ENDED, "dead": PodState.ENDED}
_KNOWN_REFUSALS = (
    (
        ("could not select device driver", "nvidia-container", "nvidia.com/gpu", "libnvidia"),
        "the Docker engine cannot give a container GPUs; install the NVIDIA Container Toolkit or set"
        " docker.gpus to none",
    ),
    (
        ("no space left on device",),
        "the Docker engine's disk is full; `docker system df` shows by what",
    ),
    (
        ("docker-init",),
        "the Docker engine lacks its docker-init; install it, it is part of Docker (Debian: tini)",
    ),
)


class DockerPods:
    """Runs the training image as containers of one engine."""

    provider = "docker"

    def __init__(
        self,
        engine: Engine,
        *,
        store_is_local: bool,
        gpus: bool | None = None,
        network: str | None = None,
        price_per_hour: float = 0.0,
    ) -> None:
        """`store_is_local`: pods reach the store on this machine's loopback alone, so share its network.

        `gpus` None takes all where the engine is set up for it; `network` None the engine's own default.
        """
        self._engine = engine
        self._store_is_local = store_is_local
        self._gpus = gpus
        self._network = network or (HOST_NETWORK if store_is_local else None)
        self._price = price_per_hour
        self._info: EngineInfo | None = None

    @property
    def place(self) -> str:
        """The engine by its own id: from another one these containers look absent. Raises PodError."""
        return f"docker {self._described().id}"

    def prepare(self, image: str, say: Callable[[str], None]) -> None:
        """Make sure that a run can start from `image`, which may take the minutes of a pull.

        Raises UsageError where that cannot be as configured, PodError where the engine fails.
        """
        self.require_usable()
        if not self.has_image(image):
            self._pull(image, say)

    def require_usable(self) -> None:
        """Raise UsageError where containers of this engine could not work as configured, else PodError."""
        if self._described().system != "linux":
            raise UsageError(
                "the Docker engine runs Windows containers", next_step="switch it to Linux containers"
            )
        if self._store_is_local and not self._engine.is_on_this_machine():
            raise UsageError(
                "the pods' store is on this machine's loopback, where containers of an engine on another"
                " machine cannot reach it",
                next_step="configure a bucket, or storage.pod_endpoint_url",
            )

    def has_image(self, image: str) -> bool:
        """Tell whether the engine has an image, so that nothing has to be pulled."""
        return self._engine.has_image(image)

    def offers(self) -> Sequence[Offer]:
        """Return the engine, at the price that its owner set."""
        info = self._described()
        name = f"Docker {info.version} on {info.name}, {'all GPUs' if self._all_gpus() else 'no GPU'}"
        return (Offer(name=name, price_per_hour=self._price),)

    def create(self, spec: PodSpec) -> Pod:
        """Create and start a container. Raises CreateRefused once it is certain that none is left."""
        name = PodName.parse(spec.name)
        if name is None:
            raise CreateRefused(f"{spec.name!r} is not the name of a pod")
        new = NewContainer(
            name=spec.name,
            image=spec.image,
            environment={**spec.environment, POD_ID_VARIABLE: spec.name},
            labels={
                POD_LABEL: spec.name,
                NAMESPACE_LABEL: name.namespace,
                DEADLINE_LABEL: name.hard_deadline.isoformat(),
            },
            all_gpus=self._all_gpus(),
            network=self._network,
            proxies=not self._store_is_local,
        )
        try:
            self._start_once(new)
        except EngineError as error:
            if error.status is None:
                raise
            if not self._ended(spec.name, grace_seconds=0):
                raise PodError(f"{error}; its container is still there") from error
            raise CreateRefused(_refusal(error, spec.image)) from error
        found = self.get(spec.name)
        if found is None:
            raise PodError(f"container {spec.name} was started and is not listed")
        return found

    def find(self, name: str) -> Sequence[Pod]:
        """Return the container of this name, running or not."""
        return [self._pod(item) for item in self._ours(name)]

    def get(self, pod_id: str) -> Pod | None:
        """Return a pod, or None when its engine says that it has no such container."""
        return next(iter(self.find(pod_id)), None)

    def list(self) -> Sequence[Pod]:
        """Return every container that retrain made on this engine, those that ended included."""
        return [self._pod(item) for item in self._listed()]

    def terminate(self, pod_id: str) -> bool:
        """Stop a container and remove it. True once the engine shows it no more."""
        return self._ended(pod_id, grace_seconds=TERM_SECONDS)

    def now(self) -> datetime:
        """Return the engine's time."""
        return self._engine.info().now

    def logs(self, pod_id: str, *, tail: int = 100) -> Sequence[str]:
        """Return the newest lines of the container's output; none once it is removed."""
        return [line for item in self._ours(pod_id) for line in self._output(item, tail)]

    def billed(self, pod_id: str, *, since: datetime, until: datetime) -> float | None:  # noqa: ARG002
        """Return None: nobody sends a bill for this machine."""
        return None

    def boot_log(self, pod_id: str) -> str:  # noqa: ARG002
        """Return nothing: the image is there before a container is."""
        return ""

    def _described(self) -> EngineInfo:
        if self._info is None:
            self._info = self._engine.info()
        return self._info

    def _all_gpus(self) -> bool:
        return self._described().has_nvidia_runtime if self._gpus is None else self._gpus

    def _start_once(self, new: NewContainer) -> None:
        """Create and start a container, or go on with the one that an earlier, unanswered request made."""
        try:
            self._engine.start(self._engine.create(new))
        except EngineError as error:
            if error.status != CONFLICT:
                raise
            ours = self._ours(new.name)
            if not ours:
                raise CreateRefused(
                    f"a container that is none of retrain's has the name {new.name}"
                ) from error
            for item in ours:
                if item.state == "created":
                    self._engine.start(item.id)

    def _ended(self, pod_id: str, *, grace_seconds: int) -> bool:
        """End and remove the container of this name; whether its engine then has none."""
        for item in self._ours(pod_id):
            with _unless_gone():
                self._engine.stop(item.id, grace_seconds=grace_seconds)
            with _unless_gone():
                self._engine.remove(item.id)
        return not self._ours(pod_id)

    def _ours(self, pod_id: str) -> Sequence[Container]:
        if PodName.parse(pod_id) is None:
            raise PodError(f"{pod_id!r} is not the id of a container of retrain's")
        return self._listed(pod_id)

    def _listed(self, name: str | None = None) -> Sequence[Container]:
        """Return our containers, or that of one name. An absence is believed of the known engine alone."""
        label = POD_LABEL if name is None else f"{POD_LABEL}={name}"
        # Looked at again: whatever is on this list may be ended.
        found = [
            item
            for item in self._engine.containers(label)
            if POD_LABEL in item.labels and name in (None, item.labels[POD_LABEL])
        ]
        if not found and self._engine.info().id != self._described().id:
            raise PodError(
                "another Docker engine answers than before; what it does not have may run on the other one",
                next_step="point DOCKER_HOST or the docker context to the engine that the run began on",
            )
        return found

    def _pod(self, item: Container) -> Pod:
        name = item.labels[POD_LABEL]
        state = _STATES.get(item.state, PodState.RUNNING)
        return Pod(name, name, state, datetime.fromtimestamp(item.created, UTC), self._price)

    def _output(self, item: Container, tail: int) -> Sequence[str]:
        try:
            return self._engine.logs(item.id, tail=tail).splitlines()
        except EngineError as error:
            if error.status == NOT_FOUND:
                return []
            raise

    def _pull(self, image: str, say: Callable[[str], None]) -> None:
        say(f"pulling {image}")
        said = time.monotonic()
        try:
            for done, known in self._engine.pull(image):
                if known and time.monotonic() - said > SAY_SECONDS:
                    said = time.monotonic()
                    say(f"pulling {image}: {done / 1e9:.2f} of {known / 1e9:.2f} GB")
        except EngineError as error:
            raise PodError(
                f"the image {image} is not on the Docker engine and cannot be pulled:"
                f" {error.detail or error}",
                next_step="check pod.image, `docker login` for a private registry, or build the image there",
            ) from error


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Do something to a container; one that is gone, or on its way, needs it no more."""
    try:
        yield
    except EngineError as error:
        if error.status not in (NOT_FOUND, CONFLICT):
            raise


def _refusal(error: EngineError, image: str) -> str:
    """Return why no container was made: one sentence with what to do about it."""
    detail = error.detail.lower()
    if "no such image" in detail:
        return f"the image {image} is not on the Docker engine; `docker pull {image}` fetches it"
    for fragments, sentence in _KNOWN_REFUSALS:
        if any(fragment in detail for fragment in fragments):
            return f"{sentence} ({error.detail})"
    return str(error)
