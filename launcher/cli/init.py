"""`retrain init`: writes a retrain.toml that explains every setting."""

import os
from pathlib import Path

import click

from launcher.errors import UsageError


@click.command("init")
@click.option("--force", is_flag=True, help="Overwrite the file that is there.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to, instead of retrain.toml here.",
)
def command(*, force: bool, output: Path | None) -> None:
    """Write a retrain.toml in which every setting is explained and commented out."""
    from launcher.cli.leaks import show_noted_leaks
    from launcher.cli.narrator import Narrator
    from launcher.settings import CONFIG_NAME
    from launcher.settings.template import template

    show_noted_leaks(Narrator())
    path = output or Path(CONFIG_NAME)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            temporary.write_text(template())
            if force:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # unlike a rename, refuses to overwrite
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError as exc:
        raise UsageError(f"{path} is already there", next_step="give --force to overwrite it") from exc
    except OSError as exc:
        raise UsageError(
            f"{path} cannot be written: {exc.strerror}", next_step="choose another place with --output"
        ) from exc
    click.echo(f"{path} is written; everything in it is commented out", err=True)
