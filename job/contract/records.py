"""Small messages of a pod: claim, heartbeat, receipt, scores."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from job.contract.manifest import ArtefactKind as ArtefactKind
from job.contract.manifest import RunId, Sha256
from job.contract.schema import Count, Message, Utc, Wire

Share = Annotated[float, Field(ge=0, le=1)]


class Stage(StrEnum):
    """What the job is doing."""

    PREPARING = "preparing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    FINISHING = "finishing"


class _OfAttempt(Message):
    run_id: RunId
    attempt: Annotated[int, Field(ge=1)]
    life: Annotated[int, Field(ge=1)]
    at: Utc


class Claim(_OfAttempt):
    """Who works on this attempt. Created once; who reads another's claim ends itself."""

    pod_id: str
    nonce: str


class Heartbeat(_OfAttempt):
    """A sign of life; its age is told by the store's clock."""

    stage: Stage
    epoch: Count = 0
    step: Count = 0
    disk_free_bytes: Count | None = None


class Receipt(_OfAttempt):
    """Vouches that the object at `key` is complete. The launcher trusts receipts only."""

    kind: ArtefactKind
    key: str
    """Relative to the attempt's prefix."""
    name: str
    """File name under which it is kept at home."""
    epoch: Count
    step: Count
    bytes: Count
    sha256: Sha256


class Score(Wire):
    """How often an asked value was found in the images, with its Wilson 95% interval."""

    n: Count
    hits: Count
    low: Share
    high: Share

    @model_validator(mode="after")
    def _is_a_share(self) -> Self:
        if self.hits > self.n or self.low > self.high:
            raise ValueError("hits must not exceed n, nor low high")
        return self

    @property
    def rate(self) -> float:
        """Hits per image asked, 0 where none was asked."""
        return self.hits / self.n if self.n else 0.0


class Scores(_OfAttempt):
    """What the images of one epoch show, attribute by attribute."""

    epoch: Count
    images: Count
    attributes: dict[str, Score]
    seconds: Annotated[float, Field(ge=0)]
    """Wall-clock of drawing and reading."""
