"""What a run comes to, as one JSON object: `retrain run --json` and `retrain status --json`.

The fields are documented in docs/json.md. Pure.
"""

from datetime import datetime
from typing import Any

from job.contract.keys import START_EPOCH
from job.contract.records import ArtefactKind, Score, Scores
from launcher.errors import Exit
from launcher.model import (
    Attempt,
    Phase,
    RunRecord,
    charged_dollars,
    estimated_dollars,
    seconds_between,
)
from launcher.money.budget import spent_at_most
from launcher.money.forecast import outlook
from launcher.outcome import final_ending, outcome
from launcher.report.receipt import receipt
from launcher.selection import clear_of


def summary(record: RunRecord, now: datetime) -> dict[str, Any]:
    """Return everything a script wants to know of a run, in JSON types. `now` is the store's time."""
    end = record.closed_at or now
    return {
        "run_id": record.run_id,
        "output_name": record.spec.output_name,
        "canary": record.spec.canary,
        "provider": record.spec.provider,
        "phase": record.phase.value,
        "exit_code": exit_code(record),
        "outcome": outcome(record).sentence if record.phase.closed else None,
        "reason": _reason(record),
        "created_at": record.created_at.isoformat(),
        "closed_at": record.closed_at.isoformat() if record.closed_at else None,
        "seconds": round(seconds_between(record.created_at, end), 1),
        "attempts": [_attempt(attempt, end) for attempt in record.attempts],
        "checkpoints": _checkpoints(record),
        "not_home": list(record.checkpoints_not_home()),
        "missing": [item.model_dump(mode="json") for item in record.lost()],
        "selected": _selected(record),
        "samples": {
            str(item.receipt.epoch): item.path
            for item in record.brought
            if item.receipt.kind is ArtefactKind.SAMPLES
        },
        "fidelity": _fidelity(record),
        "cost": _cost(record, end),
        "outlook": _outlook(record, now),
        "receipt": receipt(record, end),
        "teardown": _teardown(record),
    }


def exit_code(record: RunRecord) -> int | None:
    """Return the exit code that stands for how the run ended, None while it is open."""
    if record.phase.closed:
        return int(outcome(record).exit_code)
    return int(Exit.LEAKED) if record.phase is Phase.LEAKED else None


def _reason(record: RunRecord) -> str | None:
    ending = final_ending(record) if record.phase.closed else None
    return ending.reason.value if ending and ending.reason else None


def _attempt(attempt: Attempt, now: datetime) -> dict[str, Any]:
    ended = attempt.ended
    return {
        "number": attempt.number,
        "pod_name": attempt.pod_name,
        "pod_ids": list(attempt.pod_ids),
        "offer": attempt.offer,
        "price_per_hour": attempt.price_per_hour,
        "price_ceiling": attempt.price_ceiling,
        "intent_at": attempt.intent_at.isoformat(),
        "hard_deadline": attempt.hard_deadline.isoformat(),
        "created_at": attempt.created_at.isoformat() if attempt.created_at else None,
        "gone_at": attempt.gone_at.isoformat() if attempt.gone_at else None,
        "resumed_epoch": attempt.resumed_epoch,
        "epoch": attempt.epoch,
        "step": attempt.step,
        "total_steps": attempt.total_steps,
        "seconds_per_step": attempt.pace.seconds_per_step,
        "ended": None if ended is None else (ended.reason.value if ended.reason else "finished"),
        "message": ended.message if ended else None,
        "charged_dollars": round(charged_dollars(attempt, now), 6),
    }


def _checkpoints(record: RunRecord) -> list[dict[str, Any]]:
    return [
        {
            "name": item.receipt.name,
            "epoch": item.receipt.epoch,
            "step": item.receipt.step,
            "attempt": item.receipt.attempt,
            "bytes": item.receipt.bytes,
            "sha256": item.receipt.sha256,
            "path": item.path,
        }
        for item in record.checkpoints()
    ]


def _selected(record: RunRecord) -> dict[str, Any] | None:
    if record.selection is None:
        return None
    return {
        "epoch": record.selection.epoch,
        "why": record.selection.why,
        "name": f"{record.spec.output_name}.safetensors",
    }


def _fidelity(record: RunRecord) -> list[dict[str, Any]]:
    """Per epoch, the start first: how often the asked value was found, with its 95% interval."""
    start = record.scores_of(START_EPOCH)
    epochs = (START_EPOCH, *record.spec.recipe.saved_epochs)
    measured = [scores for epoch in epochs if (scores := record.scores_of(epoch))]
    return [
        {
            "epoch": scores.epoch,
            "images": scores.images,
            "seconds": round(scores.seconds, 1),
            "attributes": {name: _score(score, start, name) for name, score in scores.attributes.items()},
        }
        for scores in measured
    ]


def _score(score: Score, start: Scores | None, name: str) -> dict[str, Any]:
    reference = start.attributes.get(name) if start else None
    return {
        "n": score.n,
        "hits": score.hits,
        "rate": round(score.rate, 4),
        "low": round(score.low, 4),
        "high": round(score.high, 4),
        "clear_of_start": clear_of(reference, score) if reference else None,
    }


def _cost(record: RunRecord, now: datetime) -> dict[str, Any]:
    return {
        "cap_dollars": record.spec.budget.cap_dollars,
        "estimated_dollars": round(sum(estimated_dollars(item, now) for item in record.attempts), 6),
        "at_most_dollars": round(spent_at_most(record, now), 6),
        "note": "estimated from the price found; at most: every attempt at its ceiling until it was gone",
    }


def _outlook(record: RunRecord, now: datetime) -> dict[str, Any] | None:
    """How a run that trains now will end; the clock of who asks may be ahead of the last pass."""
    expected = outlook(record, now) if not record.phase.closed else None
    if expected is None:
        return None
    return {
        "finishes": expected.finishes,
        "eta": expected.ends_at.isoformat(),
        "dollars": round(expected.dollars, 6),
        "epoch": expected.epoch,
        "evaluation": expected.evaluation,
    }


def _teardown(record: RunRecord) -> dict[str, Any]:
    return {
        "confirmed": record.all_gone,
        "pods": [
            {
                "attempt": attempt.number,
                "pod_name": attempt.pod_name,
                "pod_ids": list(attempt.pod_ids),
                "gone_at": attempt.gone_at.isoformat() if attempt.gone_at else None,
                "console_url": attempt.console_url or None,
            }
            for attempt in record.attempts
            if not attempt.refused
        ],
    }
