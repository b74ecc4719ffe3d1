"""Whether the store's time can be trusted with a new deadline: pure.

A pod's deadline is written in the store's time and enforced by it. Were that time wrong, the deadline would
come too late; so while it contradicts itself, nothing new is rented. Pods that exist are ended all the same.
"""

from datetime import datetime, timedelta

from launcher.model import RunRecord

JUMP_SECONDS = 120.0
"""By which the store's time and this machine's may part between two looks."""


def clock_trouble(record: RunRecord, now: datetime, drift_seconds: float) -> str:
    """Return what is wrong with the store's time, in words; empty where nothing is.

    `drift_seconds` is what the store's clock went ahead of this machine's monotonic one since this launcher
    last looked. A laptop that slept sees that, too; the next look is sound again.
    """
    slack = timedelta(seconds=JUMP_SECONDS)
    latest = max(
        record.created_at,
        record.passed_at or record.created_at,
        *(attempt.gone_at or attempt.intent_at for attempt in record.attempts),
        *(attempt.ended.at for attempt in record.attempts if attempt.ended),
    )
    if now < latest - slack:
        return f"the store says {now:%F %H:%M:%S}, but {latest:%F %H:%M:%S} is on record"
    for attempt in record.attempts:
        if attempt.gone_at is not None and attempt.gone_at < attempt.intent_at - slack:
            return f"attempt {attempt.number} ended before it began: what it cost cannot be told"
    if abs(drift_seconds) > JUMP_SECONDS:
        return f"the store's time went {drift_seconds:+.0f} s against this machine's since the last look"
    return ""
