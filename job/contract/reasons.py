"""Why an attempt ended: one vocabulary for the job, the launcher and the report."""

from enum import StrEnum


class Reason(StrEnum):
    """Why an attempt ended other than by finishing its work."""

    # Said by the job.
    BAD_DATASET = "bad_dataset"
    BAD_INPUT = "bad_input"
    BAD_BASE_MODEL = "bad_base_model"
    BAD_INIT_WEIGHTS = "bad_init_weights"
    BAD_RECIPE = "bad_recipe"
    DISK_FULL = "disk_full"
    NAN_LOSS = "nan_loss"
    OUT_OF_MEMORY = "out_of_memory"
    STALLED = "stalled"
    STORAGE_FAILED = "storage_failed"
    SUPERSEDED = "superseded"
    TOO_MANY_LIVES = "too_many_lives"
    TRAINER_CRASHED = "trainer_crashed"
    # Said by whoever finds that time is up.
    STOP_AT = "stop_at"
    HARD_DEADLINE = "hard_deadline"
    # Said by the launcher.
    BOOT_TIMEOUT = "boot_timeout"
    CANCELLED = "cancelled"
    CAP_REACHED = "cap_reached"
    CREATE_REFUSED = "create_refused"
    LEAKED = "leaked"
    NO_OFFER = "no_offer"
    POD_GONE = "pod_gone"
    PRICE_ABOVE_CEILING = "price_above_ceiling"
    PROVISION_TIMEOUT = "provision_timeout"
    SILENT = "silent"

    @property
    def would_fail_again(self) -> bool:
        """Whether another pod with the same inputs and recipe would end the same way."""
        return self in _FINAL


_FINAL = frozenset(
    {
        Reason.BAD_DATASET,
        Reason.BAD_BASE_MODEL,
        Reason.BAD_INIT_WEIGHTS,
        Reason.BAD_RECIPE,
        Reason.NAN_LOSS,
        Reason.OUT_OF_MEMORY,
        Reason.CANCELLED,
        Reason.CAP_REACHED,
        Reason.STOP_AT,
        Reason.HARD_DEADLINE,
    }
)
