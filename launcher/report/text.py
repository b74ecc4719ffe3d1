"""A run's result for a person, as plain text: what `retrain run` prints when it is over. Pure."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from launcher.model import RunRecord
from launcher.report.receipt import receipt_lines

AWAY_SHOWN = 3
"""Names of checkpoints that are not home: who cancels early need not read a hundred of them."""


def result_text(result: dict[str, Any]) -> str:
    """Return the text for what `launcher.report.summary.summary` returned."""
    lines = [
        f"{result['output_name']} ({_kind(result)}{result['run_id']}): {result['phase']}",
        *([f"  {result['outcome']}"] if result["outcome"] else []),
        "",
        *_checkpoints(result),
        *_fidelity(result),
        *_money(result),
        *_outlook(result),
        *receipt_lines(result["receipt"], result["provider"]),
        *_teardown(result),
    ]
    return "\n".join(lines) + "\n"


def leaked_lines(record: RunRecord) -> list[str]:
    """Return a loud line for each attempt whose pods may still run: which, what price, where to end them."""
    return [
        f"LEAKED: run {record.run_id}, pod {', '.join(attempt.pod_ids) or attempt.pod_name} may still run,"
        f" at up to ${attempt.price_ceiling:.3f} an hour. {attempt.console_url}".rstrip()
        for attempt in record.attempts
        if attempt.gone_at is None
    ]


def _checkpoints(result: dict[str, Any]) -> list[str]:
    if not result["checkpoints"]:
        return ["No checkpoint is home.", ""]
    lines = ["Checkpoints, each verified against its receipt:"]
    chosen = result["selected"]
    for item in result["checkpoints"]:
        mark = " *" if chosen and chosen["epoch"] == item["epoch"] else ""
        lines.append(
            f"  epoch {item['epoch']:>4}  step {item['step']:>6}  {item['bytes'] / 1e6:8.2f} MB"
            f"  {item['sha256'][:12]}  {item['path']}{mark}"
        )
    if chosen:
        lines.append(f"  * is {chosen['name']}: {chosen['why']}")
    away = result["not_home"]
    lines += [f"  not home: {name}" for name in away[:AWAY_SHOWN]]
    if len(away) > AWAY_SHOWN:
        lines.append(f"  not home: {len(away) - AWAY_SHOWN} more, up to {away[-1]}")
    return [*lines, ""]


def _fidelity(result: dict[str, Any]) -> list[str]:
    rows = result["fidelity"]
    names = [name for row in rows[:1] for name in row["attributes"]]
    if not names:
        return []
    lines = ["Asked attributes found in the samples (hits/asked, 95% interval; + lies clear of the start):"]
    lines.append("  " + " " * 11 + "".join(f"{name:<28}" for name in names).rstrip())
    for row in rows:
        label = "start" if row["epoch"] == 0 else f"epoch {row['epoch']}"
        cells = "".join(
            f"{_cell(row['attributes'][name]):<28}" for name in names if name in row["attributes"]
        )
        lines.append(f"  {label:<11}{cells}".rstrip())
    return [*lines, ""]


def _cell(score: dict[str, Any]) -> str:
    mark = " +" if score["clear_of_start"] else ""
    return f"{score['hits']}/{score['n']} {score['rate']:.0%} [{score['low']:.0%}, {score['high']:.0%}]{mark}"


def _money(result: dict[str, Any]) -> list[str]:
    cost = result["cost"]
    return [
        f"Took {timedelta(seconds=int(result['seconds']))}, {len(result['attempts'])} attempt(s);"
        f" about ${cost['estimated_dollars']:.2f} (estimate), at most ${cost['at_most_dollars']:.2f}"
        f" of ${cost['cap_dollars']:.2f}."
    ]


def _outlook(result: dict[str, Any]) -> list[str]:
    expected = result["outlook"]
    if expected is None:
        return []
    end = f"{expected['eta']} for about ${expected['dollars']:.2f} (estimate, by the speed measured)"
    if expected["finishes"]:
        return [f"{'Done' if expected['evaluation'] else 'Trained, not yet evaluated,'} about {end}."]
    reached = f"after epoch {expected['epoch']}" if expected["epoch"] else "before the first checkpoint"
    return [f"WILL NOT FINISH: it stops {reached}, {end}."]


def _teardown(result: dict[str, Any]) -> list[str]:
    pods = result["teardown"]["pods"]
    if not pods:
        return ["No pod was made."]
    return [
        f"Pod {', '.join(pod['pod_ids']) or pod['pod_name']}: "
        + (
            f"confirmed gone at {pod['gone_at']}"
            if pod["gone_at"]
            else f"NOT confirmed gone {pod['console_url'] or ''}"
        )
        for pod in pods
    ]


def _kind(result: dict[str, Any]) -> str:
    return "live canary " if result["canary"] else ""


def overview_text(results: Sequence[dict[str, Any]]) -> str:
    """Return a line for each run."""
    if not results:
        return "no runs\n"
    return "".join(
        f"{result['run_id']}  {result['phase']:<12}  {_kind(result)}{result['output_name']}"
        f"  {len(result['checkpoints'])} checkpoint(s) home"
        f"  at most ${result['cost']['at_most_dollars']:.2f} of ${result['cost']['cap_dollars']:.2f}\n"
        for result in results
    )
