"""Events: what a pod says while it works, one JSON object a line, in order of `seq`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError

from job.contract.manifest import RunId, Sha256
from job.contract.reasons import Reason
from job.contract.schema import (
    ContractError,
    Count,
    Message,
    Utc,
    check_version,
    describe,
    parse_object,
)


class Event(Message):
    """What every event says. `seq` rises by one within a life, from 1."""

    terminal: ClassVar[bool] = False

    run_id: RunId
    attempt: Annotated[int, Field(ge=1)]
    life: Annotated[int, Field(ge=1)]
    seq: Annotated[int, Field(ge=1)]
    at: Utc
    kind: str


class Booted(Event):
    """The job runs; nothing was fetched yet but its manifest."""

    kind: Literal["booted"] = "booted"
    pod_id: str
    version: str
    hints: dict[str, str] = Field(default_factory=dict)
    """What the machine says about itself; hints, never proof."""


class Claimed(Event):
    """This pod owns the attempt."""

    kind: Literal["claimed"] = "claimed"
    nonce: str


class Prepared(Event):
    """Inputs fetched, verified and unpacked."""

    kind: Literal["prepared"] = "prepared"
    images: Count
    bytes: Count
    disk_free_bytes: Count
    disk_needed_bytes: Count
    resumed_epoch: Count = 0
    resumed_step: Count = 0


class TrainingStarted(Event):
    """The trainer counted its work."""

    kind: Literal["training_started"] = "training_started"
    total_steps: Count
    steps_per_epoch: Count
    total_epochs: Count
    first_step: Count = 0


class Progress(Event):
    """Where training stands. `losses` holds every (step, loss) since the last of these."""

    kind: Literal["progress"] = "progress"
    step: Count
    total_steps: Count
    epoch: Count
    steps_per_second: float | None = None
    losses: tuple[tuple[int, float], ...] = ()


class CheckpointUploaded(Event):
    """A checkpoint is in the bucket, with its receipt."""

    kind: Literal["checkpoint"] = "checkpoint"
    name: str
    epoch: Count
    step: Count
    bytes: Count
    sha256: Sha256


class Sampled(Event):
    """Images of one epoch were drawn and are in the bucket."""

    kind: Literal["sampled"] = "sampled"
    epoch: Count
    images: Count
    seconds: float


class Evaluated(Event):
    """Images of one epoch were measured."""

    kind: Literal["evaluated"] = "evaluated"
    epoch: Count
    hits: dict[str, tuple[int, int]]
    """Attribute → (hits, asked)."""


class Hinted(Event):
    """What the machine found out about itself since it booted; hints, never proof."""

    kind: Literal["hinted"] = "hinted"
    hints: dict[str, str]


class Warned(Event):
    """Something a person should know; work goes on."""

    kind: Literal["warning"] = "warning"
    message: str


class Failed(Event):
    """The attempt is over without its work done."""

    terminal: ClassVar[bool] = True

    kind: Literal["failed"] = "failed"
    reason: Reason
    message: str


class Finished(Event):
    """The attempt's work is done, everything durable is in the bucket."""

    terminal: ClassVar[bool] = True

    kind: Literal["finished"] = "finished"
    epochs: Count
    step: Count


class UnknownEvent(Event):
    """An event of a newer minor version; kept, not understood."""

    model_config = ConfigDict(frozen=True, extra="allow")


KINDS: dict[str, type[Event]] = {
    kind.model_fields["kind"].default: kind
    for kind in (
        Booted, Claimed, Prepared, TrainingStarted, Progress, CheckpointUploaded,
        Sampled, Evaluated, Hinted, Warned, Failed, Finished,
    )
}  # fmt: skip


def decode_event(line: bytes) -> Event:
    """Read one line of an event log; a kind that is not known comes back as UnknownEvent.

    Raises ContractError as `job.contract.schema.decode` does.
    """
    fields: dict[str, Any] = parse_object("event", line)
    check_version("event", fields)
    kind = KINDS.get(fields.get("kind", ""), UnknownEvent) if isinstance(fields.get("kind"), str) else Event
    try:
        return kind.model_validate_json(line, extra="allow" if kind is UnknownEvent else "ignore")
    except ValidationError as error:
        raise ContractError(f"event: {describe(error)}") from None


def decode_log(data: bytes) -> tuple[Event, ...]:
    """Read a whole event log: in order of `seq`, replays and lines that cannot be read dropped."""
    found: dict[int, Event] = {}
    for line in data.splitlines():
        try:
            event = decode_event(line)
        except ContractError:
            continue
        found.setdefault(event.seq, event)
    return tuple(found[seq] for seq in sorted(found))
