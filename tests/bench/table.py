"""The figures for people: a table on a terminal, and the same in docs/performance.md, between two markers."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure

BEGIN = "<!-- figures: written by `make bench BENCH_FLAGS=--write-docs`, do not edit -->"
END = "<!-- end of figures -->"
_MARKS = {True: "reached", False: "missed", None: ""}


def as_text(machine: dict[str, Any], figures: Sequence[Figure], remarks: Sequence[str]) -> str:
    """Return the table for a terminal."""
    rows = [("", "ratio", "spread", "n", "target", "")]
    lines = []
    for group, members in groupby(figures, key=lambda figure: figure.group):
        rows.append((group, "", "", "", "", ""))
        rows += [
            (f"  {figure.name}", _ratio(figure.ratio), _spread(figure), str(figure.n), _target(figure),
             _MARKS[figure.is_met])
            for figure in members
        ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) if number == 0 else cell.rjust(width) for number, (cell, width) in
                 enumerate(zip(row, widths, strict=True))]  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", _where(machine), *remarks]) + "\n"


def write_docs(
    path: Path, machine: dict[str, Any], figures: Sequence[Figure], remarks: Sequence[str], command: str
) -> None:
    """Put the figures between the markers of a document. Raises ValueError when it has none."""
    text = path.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    path.write_text(
        text[:begin] + "\n\n" + _as_markdown(machine, figures, remarks, command) + "\n" + text[end:]
    )


def _as_markdown(
    machine: dict[str, Any], figures: Sequence[Figure], remarks: Sequence[str], command: str
) -> str:
    lines = [f"`{command}`: {_where(machine)}", ""]
    for group, members in groupby(figures, key=lambda figure: figure.group):
        lines += [f"**{group[0].upper()}{group[1:]}**", ""]
        lines += [
            "| | ratio | least to most | n | target | 1 is | medians |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_row(figure) for figure in members]
        lines.append("")
    return "\n".join([*lines, *remarks])


def _row(figure: Figure) -> str:
    name = f"{figure.name} ({figure.note})" if figure.note else figure.name
    medians = ", ".join(f"{side.name} {_seconds(side.seconds)}" for side in figure.sides)
    one = figure.means.removesuffix(" = 1").removesuffix(",")
    target = _target(figure) + (f", {_MARKS[figure.is_met]}" if figure.is_met is not None else "")
    cells = (name, f"**{_ratio(figure.ratio)}**", _spread(figure), str(figure.n), target, one, medians)
    return f"| {' | '.join(cells)} |"


def _where(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return (
        f"{machine['measured_at']}, commit {machine['commit']}, {machine['processor']} with"
        f" {machine['cores']} cores and {machine['memory_gb']} GB, {machine['system']},"
        f" Python {machine['python']}, {packages}; load before {machine['load_before']};"
        f" {machine['minutes']} min in all."
    )


def _target(figure: Figure) -> str:
    if figure.at_least is not None:
        return f"≥ {figure.at_least:g}"
    return f"≤ {figure.at_most:g}" if figure.at_most is not None else ""


def _spread(figure: Figure) -> str:
    return f"{_ratio(figure.low)} to {_ratio(figure.high)}"


def _ratio(number: float) -> str:
    return f"{number:.3f}" if number < 0.1 or 0.95 < number < 1.05 else f"{number:.2f}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
