"""The fault knobs, as data: what goes wrong with answers, with the provider, and with single pods."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, StrEnum, auto


class Operation(StrEnum):
    """What a request asks for."""

    CREATE = "create"
    LIST = "list"
    GET = "get"
    UPDATE = "update"
    DELETE = "delete"
    ACTION = "action"
    TERMINATE_ACTION = "action terminate"
    LOGS = "logs"
    GPUS = "gpus"
    DATA_CENTERS = "data centers"
    BILLING = "billing"
    MYSELF = "graphql myself"
    GRAPHQL_POD = "graphql pod"
    GRAPHQL_TERMINATE = "graphql podTerminate"
    UNKNOWN = "unknown"


TERMINATIONS = frozenset({Operation.DELETE, Operation.TERMINATE_ACTION, Operation.GRAPHQL_TERMINATE})


class Trouble(Enum):
    """What a client gets instead of the honest answer."""

    SERVER_ERROR = auto()
    """500, problem+json."""
    BAD_GATEWAY = auto()
    """502 with a page of HTML."""
    TIMEOUT = auto()
    """No answer at all; the connection stays open."""
    DISCONNECT = auto()
    """The connection ends without an answer."""
    RATE_LIMITED = auto()
    """429 with Retry-After."""
    NO_CAPACITY = auto()
    """400 with the text of exhausted capacity."""
    BAD_REQUEST = auto()
    """400 with another text: a rule broken."""
    NO_BALANCE = auto()
    """402."""
    UNAUTHORIZED = auto()
    """401."""
    FORBIDDEN = auto()
    """403, problem+json."""
    CLOUDFLARE = auto()
    """403 with the plain text `error code: 1010`."""
    NOT_FOUND = auto()
    """404."""
    CONFLICT = auto()
    """409."""
    TRUNCATED = auto()
    """The honest answer's first half, well-formed HTTP."""
    EMPTY = auto()
    """200 and an empty list."""
    MALFORMED = auto()
    """200 and JSON of another shape."""


@dataclass
class Fault:
    """A trouble for some requests. `times` None means for ever."""

    trouble: Trouble
    operations: frozenset[Operation] = frozenset()
    """Empty for all."""
    times: int | None = 1
    skip: int = 0
    """How many requests get through first."""
    after_effect: bool = False
    """Whether the request takes effect before its answer goes wrong."""
    until: datetime | None = None
    retry_after_seconds: int = 12
    by_pods: bool | None = None
    """True for requests with a pod's key only, False for the account's only."""
    body: bytes | None = None
    """Another body than the usual one of TRUNCATED or MALFORMED."""

    def meets(self, operation: Operation, *, by_pod: bool, now: datetime) -> bool:
        """Whether it strikes this request; counts it."""
        if self.operations and operation not in self.operations:
            return False
        if self.times == 0 or (self.until is not None and now >= self.until):
            return False
        if self.by_pods is not None and self.by_pods != by_pod:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class KeyRights(Enum):
    """Where a pod's own key is accepted, on its own pod alone."""

    BOTH = auto()
    V2 = auto()
    GRAPHQL = auto()
    NOWHERE = auto()


@dataclass
class Conditions:
    """How the provider behaves towards everyone, until a test changes it. Times in seconds."""

    list_lag_seconds: float = 0.0
    """How long a new pod is missing from the list."""
    get_lag_seconds: float = 0.0
    """How long a new pod answers 404, to GET, DELETE and every action."""
    list_linger_seconds: float = 0.0
    """How long a pod that is gone stays in the list, as TERMINATED."""
    end_lag_seconds: float = 0.0
    """From a pod's end accepted, and its container stopped, to its absence."""
    page_size: int | None = None
    """Most pods on a page; None for a deployment without pagination."""
    quota_per_minute: int | None = None
    """Requests of one key in a calendar minute; None for no limit."""
    no_capacity: set[tuple[str, str]] = field(default_factory=set)
    """GPU id and data center that refuse whatever the catalog says; "" stands for all."""
    forbidden_gpus: set[str] = field(default_factory=set)
    """GPU types of a pool that the account may not use: 403."""
    pod_key_rights: KeyRights = KeyRights.BOTH
    locked_refuses_terminate: bool = True
    """A guess: the documents name only stop and reset."""
    billing_refresh_seconds: float = 300.0
    billed_by_seconds: int = 1
    """What a pod's time is rounded up to; 60 where billing is by the minute."""
    disk_usd_per_gb_month: float = 0.1
    """Charged on top of `cost`: RunPod's documented price."""
    volume_usd_per_gb_month: float = 0.2
    """What a persistent mount costs while its pod is stopped. A guess."""
    hours_of_balance_to_deploy: float = 1.0


@dataclass(frozen=True)
class Misfortune:
    """What happens to one pod. Times in seconds after the container first came up."""

    boots_into_error: bool = False
    never_ready: bool = False
    """RUNNING without a runtime, for ever."""
    stays_provisioning: bool = False
    restart_loop_seconds: float | None = None
    """The main process ends after so long, every time."""
    host_restart_after: float | None = None
    host_kill_after: float | None = None
    host_kill_leaves: str = "TERMINATED"
    """TERMINATED (the pod is gone), EXITED or ERROR."""
    ignores_sigterm: bool = False
    locked: bool = False
    price_factor: float = 1.0
    """What its real price is in terms of the catalog's."""
    key_rights: KeyRights | None = None
    """Overrides the conditions'."""


@dataclass
class Faults:
    """Everything that a test can make go wrong."""

    conditions: Conditions = field(default_factory=Conditions)
    answers: list[Fault] = field(default_factory=list)
    next_pods: list[Misfortune] = field(default_factory=list)
    """For the next pods in turn."""
    every_pod: Misfortune = field(default_factory=Misfortune)
    """For the pods after those."""

    def strike(self, operation: Operation, *, by_pod: bool, now: datetime) -> Fault | None:
        """Return the first fault that this request meets."""
        return next((f for f in self.answers if f.meets(operation, by_pod=by_pod, now=now)), None)

    def misfortune(self) -> Misfortune:
        """Return what happens to a pod that is being created."""
        return self.next_pods.pop(0) if self.next_pods else self.every_pod
