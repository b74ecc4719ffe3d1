"""The run's record: what every launcher knows of a run, kept in the bucket under conditional writes.

Knows the contract and values alone. What is decided from it is in `launcher.reconcile`.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from job.contract.manifest import EvaluationPlan, InputRole, RunId, Sha256, Timing
from job.contract.reasons import Reason
from job.contract.recipe import Recipe, TrainerName
from job.contract.records import ArtefactKind, Receipt, Scores
from job.contract.schema import Message, Utc, Wire
from launcher.money.billing import Bill
from launcher.money.pace import Pace, Speed

Seconds = Annotated[float, Field(ge=0)]
Dollars = Annotated[float, Field(ge=0)]


class Phase(StrEnum):
    """Where a run stands."""

    STAGED = "staged"
    PROVISIONING = "provisioning"
    BOOTING = "booting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    COLLECTING = "collecting"
    TEARING_DOWN = "tearing_down"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LEAKED = "leaked"

    @property
    def closed(self) -> bool:
        """Whether nothing is left to do for any launcher. LEAKED is not closed: it is tried again."""
        return self in (Phase.DONE, Phase.FAILED, Phase.CANCELLED)


class Budget(Wire):
    """What a run may cost."""

    cap_dollars: Dollars
    max_seconds: Annotated[float, Field(gt=0)]
    """Wall-clock of the whole run, from its start."""
    reserve_seconds: Seconds = 600
    """Kept free at the end of each attempt for upload and teardown."""
    price_ceiling: Dollars | None = None
    """Dollars an hour; None takes the offer's own price."""


class Clocks(Wire):
    """How long a launcher waits for what, in seconds."""

    provision_seconds: Seconds = 300
    boot_seconds: Seconds = 1200
    """From a pod's creation, or its last visible progress, to training."""
    boot_hard_seconds: Seconds = 1800
    """From a pod's creation to training, whatever is visible."""
    silence_seconds: Seconds = 600
    poll_seconds: Seconds = 5
    lease_seconds: Seconds = 60
    create_lag_seconds: Seconds = 120
    """How long a pod may be missing from the provider's list although it was created."""
    leak_seconds: Seconds = 600
    """From the decision to end a pod to calling it LEAKED."""
    capacity_seconds: Seconds = 7200
    """How long a machine is waited for where none is to be had."""
    collect_seconds: Seconds = 3600
    """From the last pod's end to giving up on what cannot be brought home."""


class InputFile(Wire):
    """An input in the bucket."""

    role: InputRole
    name: str
    key: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class RunSpec(Wire):
    """What was asked for; never changes. Enough to build any attempt's manifest on any machine."""

    output_name: str
    canary: bool = False
    """Whether it trains nothing: its pod only shows that it ends itself."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]{1,16}$")] = "default"
    provider: str
    place: str = ""
    """The one machine from which its pods can be reached; empty where any can."""
    trainer: TrainerName
    recipe: Recipe
    inputs: tuple[InputFile, ...]
    evaluation: EvaluationPlan | None = None
    budget: Budget
    clocks: Clocks = Clocks()
    timing: Timing = Timing()
    image: str = ""
    disk_gb: int = 0
    images: Annotated[int, Field(ge=0)] = 0
    """Of the data set; 0 where that is not known, and nothing can be forecast."""
    paid: bool = False
    """Whether its provider takes money, so that a price of nothing is one that is not known."""
    cheapest: bool = True
    """Whether offers are tried by what finishing costs on them; else in the provider's order."""
    speeds: tuple[Speed, ...] = ()
    """What forecasts reckon with: measured by earlier runs, and the estimate for all other machines."""
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Pods that may be tried; offers that could not be had do not count."""


class Ending(Wire):
    """Why an attempt is over. `reason` None: its work was done."""

    reason: Reason | None
    message: str
    at: Utc


class Watch(Wire):
    """How long an attempt has been silent, by the store's clock, over passes that saw both sides."""

    heartbeat_at: Utc | None = None
    silent_seconds: Seconds = 0
    saw_both: bool = False
    """Whether store and provider both answered on the last pass."""


class Attempt(Wire):
    """One try on one pod. Written before the pod is asked for."""

    number: Annotated[int, Field(ge=1)]
    pod_name: str
    offer: str
    offer_location: str = ""
    intent_at: Utc
    price_ceiling: Dollars
    """Dollars an hour that this attempt is charged with until better is known."""
    stop_at: Utc
    hard_deadline: Utc
    """Immutable."""
    pod_ids: tuple[str, ...] = ()
    """Every pod ever seen under this attempt's name."""
    claimed_by: str = ""
    """The pod that claimed the attempt, where no pod was seen: looked up by it, but never ended by it."""
    asked_at: Utc | None = None
    """Written immediately before the provider is asked for the pod: without it, there is none."""
    unanswered_at: Utc | None = None
    """When the request for its pod was given up without an answer: it may have been served until then."""
    refused: bool = False
    """The provider said that no pod was made."""
    created_at: Utc | None = None
    price_per_hour: Dollars | None = None
    console_url: str = ""
    booted_at: Utc | None = None
    """When its job was first seen to train, or to do what comes after."""
    events_seen: int = 0
    progress_at: Utc | None = None
    """When its job, or while it boots its host, last said something new."""
    boot_log: str = ""
    """The newest line that its host said of how it comes up."""
    resumed_epoch: int = 0
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    pace: Pace = Pace()
    trains_at: Utc | None = None
    """When its trainer began to make steps, by its pod's word of how long ago that was."""
    falls_short_at: Utc | None = None
    """When its measured speed first said that it will not finish in its time."""
    ended: Ending | None = None
    acknowledged: tuple[str, ...] = ()
    """Pods whose end the provider has acknowledged; absence is still to be confirmed."""
    acknowledged_at: Utc | None = None
    """When the last of them was added: only what is asked for later can show that they are gone."""
    teardown_seconds: Seconds = 0
    """How long its end has been asked for in vain, over passes that asked."""
    gone_at: Utc | None = None
    """When the absence of every pod of this attempt was confirmed."""
    collected: bool = False
    """Its pods are gone and all that it vouched for is home or given up."""
    watch: Watch = Watch()

    @property
    def open(self) -> bool:
        """Whether its pod should be working."""
        return self.ended is None

    @property
    def billed_ids(self) -> tuple[str, ...]:
        """The pods that a bill may name: those seen, else the one that claimed the attempt."""
        return self.pod_ids or ((self.claimed_by,) if self.claimed_by else ())


class Brought(Wire):
    """An artefact that is at home, verified against its receipt."""

    receipt: Receipt
    path: str
    """On the machine that fetched it."""
    at: Utc


class Missing(Wire):
    """An artefact that could not be brought home."""

    attempt: int
    key: str
    sha256: Sha256
    why: str


class Selection(Wire):
    """Which checkpoint is `<output_name>.safetensors`, and why."""

    epoch: int
    why: str


class Lease(Wire):
    """Which launcher acts on this run, and until when by the store's clock."""

    holder: str
    until: Utc


class RunRecord(Message):
    """All that is known of a run."""

    run_id: RunId
    created_at: Utc
    spec: RunSpec
    phase: Phase = Phase.STAGED
    attempts: tuple[Attempt, ...] = ()
    cancel_requested: bool = False
    """Set by any launcher; acted on by who holds the lease."""
    lease: Lease | None = None
    brought: tuple[Brought, ...] = ()
    missing: tuple[Missing, ...] = ()
    scores: tuple[Scores, ...] = ()
    passed_at: Utc | None = None
    """The last pass of any launcher."""
    collecting_seconds: Seconds = 0
    """How long the last artefacts have been fetched in vain, over passes that tried."""
    waiting_since: Utc | None = None
    """Since when no machine was to be had; of no meaning once a later attempt had one."""
    stopped: Ending | None = None
    """Why no further attempt is made, where no attempt's own ending says so."""
    selection: Selection | None = None
    closed_at: Utc | None = None
    bills: tuple[Bill, ...] = ()
    """What the provider says that pods cost: the only thing that changes once a run is closed."""

    @property
    def last(self) -> Attempt | None:
        """Return the newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def all_gone(self) -> bool:
        """Whether the absence of every pod of every attempt is confirmed."""
        return all(attempt.gone_at is not None for attempt in self.attempts)

    def attempt(self, number: int) -> Attempt:
        """Return attempt `number`, counted from 1."""
        return self.attempts[number - 1]

    def with_attempt(self, attempt: Attempt) -> "RunRecord":
        """Return the record with this attempt in place of the one of its number, or added."""
        others = [known for known in self.attempts if known.number != attempt.number]
        ordered = sorted([*others, attempt], key=lambda item: item.number)
        return self.model_copy(update={"attempts": tuple(ordered)})

    def is_home(self, receipt: Receipt) -> bool:
        """Whether the artefact of this receipt, or a later attempt's version of it, was brought home."""
        return any(
            item.receipt.key == receipt.key
            and (item.receipt.attempt > receipt.attempt or item.receipt == receipt)
            for item in self.brought
        )

    def is_given_up(self, receipt: Receipt) -> bool:
        """Whether the artefact of this receipt was given up as missing."""
        wanted = (receipt.attempt, receipt.key, receipt.sha256)
        return any((item.attempt, item.key, item.sha256) == wanted for item in self.missing)

    def lost(self) -> tuple[Missing, ...]:
        """Return what was given up and of which no other version came home."""
        home = {item.receipt.key for item in self.brought}
        return tuple(item for item in self.missing if item.key not in home)

    def checkpoints(self) -> tuple[Brought, ...]:
        """Return the checkpoints at home in order of epoch, of each the newest attempt's."""
        newest = {
            item.receipt.epoch: item
            for item in sorted(self.brought, key=lambda item: item.receipt.attempt)
            if item.receipt.kind is ArtefactKind.CHECKPOINT
        }
        return tuple(newest[epoch] for epoch in sorted(newest))

    def checkpoints_not_home(self) -> tuple[str, ...]:
        """Return the names of the recipe's checkpoints that are not at home."""
        home = {item.receipt.epoch for item in self.checkpoints()}
        recipe = self.spec.recipe
        return tuple(recipe.checkpoint_name(epoch) for epoch in recipe.saved_epochs if epoch not in home)

    def scores_of(self, epoch: int) -> Scores | None:
        """Return what the images of this epoch measured, newest attempt first."""
        found = [item for item in self.scores if item.epoch == epoch]
        return max(found, key=lambda item: item.attempt) if found else None


def charged_dollars(attempt: Attempt, now: datetime) -> float:
    """Upper bound of what an attempt has cost until `now`, in US dollars.

    Its price ceiling from intent to confirmed absence, for each pod that carried its name; nothing where no
    pod was made.
    """
    if attempt.refused:
        return 0.0
    rate = max(attempt.price_ceiling, attempt.price_per_hour or 0.0) * max(1, len(attempt.pod_ids))
    return rate * seconds_between(attempt.intent_at, attempt.gone_at or now) / 3600


def estimated_dollars(attempt: Attempt, now: datetime) -> float:
    """Best estimate of what an attempt has cost until `now`: the price found, from creation to absence."""
    if attempt.created_at is None or attempt.price_per_hour is None:
        return charged_dollars(attempt, now)
    rate = attempt.price_per_hour * max(1, len(attempt.pod_ids))
    return rate * seconds_between(attempt.created_at, attempt.gone_at or now) / 3600


def seconds_between(start: datetime, end: datetime) -> float:
    """Return the seconds from `start` to `end`, never negative: clocks may step back."""
    return max(0.0, (end - start).total_seconds())
