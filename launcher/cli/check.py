"""`retrain check`: lists what is wrong with a data set."""

import json
from collections import Counter
from pathlib import Path

import click

from launcher.errors import Exit


@click.command("check")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--strict", is_flag=True, help="Take warnings for errors.")
def command(*, data: Path, as_json: bool, strict: bool) -> Exit:
    """List what is wrong with DATA, a zip or folder of captioned images.

    Exit code 3 when there are errors, which a run would refuse; with --strict, warnings count too.
    """
    from launcher.cli.leaks import show_noted_leaks
    from launcher.cli.narrator import Narrator
    from launcher.dataset.checks import check
    from launcher.dataset.findings import Severity
    from launcher.dataset.reading import open_dataset

    show_noted_leaks(Narrator())
    with open_dataset(data) as dataset:
        findings = check(dataset)
    counts = Counter(finding.severity for finding in findings)
    refused = counts[Severity.ERROR] > 0 or (strict and counts[Severity.WARNING] > 0)
    if as_json:
        summary = {
            "data": str(data),
            "pairs": len(dataset.pairs),
            "image_bytes": dataset.image_bytes,
            "refused": refused,
            **{f"{severity}s": counts[severity] for severity in Severity},
            "findings": [finding.as_dict() for finding in findings],
        }
        click.echo(json.dumps(summary, indent=2))
    else:
        for finding in findings:
            place = f"{finding.file} " if finding.file else ""
            click.echo(f"{finding.severity:<7}  {place}{finding.seen}; {finding.advice} [{finding.code}]")
    told = ", ".join(f"{counts[severity]} {severity}{'s' * (counts[severity] != 1)}" for severity in Severity)
    click.echo(f"{data}: {len(dataset.pairs)} pairs of image and caption; {told}", err=True)
    return Exit.DATASET if refused else Exit.DONE
