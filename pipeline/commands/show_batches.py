"""`fcos show-batches`."""

from pathlib import Path

import click


@click.command("show-batches")
@click.option("--batches", type=click.IntRange(1), default=4, show_default=True, help="How many, from the first on.")
@click.option("--epoch", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="batches", show_default=True, help="Folder.")
def show_batches(batches: int, epoch: int, out: Path) -> None:
    """See what training will see: its batches, augmented and padded, with their objects."""
    from pipeline import params
    from pipeline.visualization import show_batches as showing
    from pipeline.workspace import workspace

    shown = showing.write(params.load(), workspace(), epoch=epoch, count=batches, out=out)
    for line in shown:
        click.echo(line)
    click.echo(f"{len(shown)} pictures in {out}", err=True)
