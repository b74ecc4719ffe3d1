"""Where everything lies in the bucket. The only place that spells a key.

A run owns `runs/<run_id>/`; the launchers' record of it is `records/<run_id>.json`. Its pod writes below
`attempts/<n>/` alone, to keys listed here in advance, so that one presigned PUT for each is enough.
"""

from collections.abc import Iterable

RECEIPT_SUFFIX = ".receipt.json"
LIVES_MAX = 3
"""Starts of the same pod's container that may work; a fourth goes straight to its end."""
STATE_SLOTS = ("state/a.tar", "state/b.tar")
"""Resume state alternates between two slots, so that one is always whole."""
START_EPOCH = 0
"""The number under which samples and scores of the untrained start are kept."""

RUNS_PREFIX = "runs/"
RECORDS_PREFIX = "records/"
"""Apart from the runs' own files, so that one listing shows every run."""
NAMES_PREFIX = "names/"


def run_prefix(run_id: str) -> str:
    """Prefix of everything that belongs to a run."""
    return f"{RUNS_PREFIX}{run_id}/"


def record_key(run_id: str) -> str:
    """The launcher's own record of a run; pods cannot see it."""
    return f"{RECORDS_PREFIX}{run_id}.json"


def input_key(run_id: str, name: str) -> str:
    """An input file, written once before the first attempt."""
    return f"{run_prefix(run_id)}inputs/{name}"


def name_lock_key(name: str) -> str:
    """Create-only lock: one open run per output name."""
    return f"{NAMES_PREFIX}{name}.json"


def canary_key(namespace: str) -> str:
    """What the newest live canary of a namespace proved."""
    return f"canary/{namespace}.json"


def reaper_key(namespace: str) -> str:
    """When a reaper last looked after the pods of a namespace."""
    return f"reaper/{namespace}.json"


def attempt_prefix(run_id: str, attempt: int) -> str:
    """Prefix of all that one attempt's pod may write."""
    return f"{run_prefix(run_id)}attempts/{attempt}/"


def manifest_key(run_id: str, attempt: int) -> str:
    """The manifest that the pod of this attempt reads first."""
    return f"{run_prefix(run_id)}manifests/{attempt}.json"


# Below: names relative to the attempt's prefix.


def claim(life: int) -> str:
    """Create-only: who works on this attempt, in this life."""
    return f"lives/{life}/claim.json"


def heartbeat(life: int) -> str:
    """Overwritten every few seconds."""
    return f"lives/{life}/heartbeat.json"


def events(life: int) -> str:
    """The life's whole event log, rewritten as it grows."""
    return f"lives/{life}/events.jsonl"


def log(life: int) -> str:
    """The tail of the trainer's output, for people."""
    return f"lives/{life}/log.txt"


def checkpoint(name: str) -> str:
    """A trained LoRA."""
    return f"checkpoints/{name}"


def samples(epoch: int) -> str:
    """Images drawn by the checkpoint of this epoch, one zip."""
    return f"samples/epoch-{epoch:06d}.zip"


def scores(epoch: int) -> str:
    """What the images of this epoch measure."""
    return f"evaluation/epoch-{epoch:06d}.json"


def receipt(key: str) -> str:
    """The receipt of a durable artefact: written after it is complete."""
    return key + RECEIPT_SUFFIX


def lives() -> range:
    """Numbers of the lives an attempt may have."""
    return range(1, LIVES_MAX + 1)


def created_once() -> tuple[str, ...]:
    """Keys that a pod may create but never overwrite."""
    return tuple(claim(life) for life in lives())


def overwritten(durable: Iterable[str]) -> tuple[str, ...]:
    """Keys that a pod may write, given its durable artefacts."""
    telemetry = tuple(key for life in lives() for key in (heartbeat(life), events(life), log(life)))
    return telemetry + tuple(key for artefact in durable for key in (artefact, receipt(artefact)))


def read_back(durable: Iterable[str]) -> tuple[str, ...]:
    """Keys that a later life of the same attempt must be able to read."""
    durable = tuple(durable)
    return (
        *created_once(),
        *(events(life) for life in lives()),
        *STATE_SLOTS,
        *(key for key in durable if key.startswith(checkpoint(""))),
        *(receipt(artefact) for artefact in durable),
    )
