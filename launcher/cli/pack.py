"""`retrain pack`: writes a data set as the zip that a pod gets."""

from pathlib import Path

import click


@click.command("pack")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="ZIP", required=True, help="Where to."
)
def command(*, data: Path, output: Path) -> None:
    """Write the pairs of DATA, a zip or folder of captioned images, as a flat zip.

    The same pairs always become the same bytes; images and captions are not changed. Prints its SHA-256.
    """
    from launcher.cli.leaks import show_noted_leaks
    from launcher.cli.narrator import Narrator
    from launcher.dataset.checks import check, require_sound
    from launcher.dataset.packing import pack
    from launcher.dataset.reading import open_dataset

    show_noted_leaks(Narrator())
    with open_dataset(data) as dataset:
        require_sound(dataset, check(dataset))
        packed = pack(dataset, output)
    click.echo(f"{packed.sha256}  {packed.path}")
    click.echo(f"{packed.images} pairs in {packed.bytes} bytes", err=True)
