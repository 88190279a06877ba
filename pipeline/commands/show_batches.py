"""`fcos show-batches`."""

from pathlib import Path

import click

from pipeline.commands.options import set_param


@click.command("show-batches")
@set_param
@click.option("--batches", type=click.IntRange(1), default=4, show_default=True, help="Number of batches.")
@click.option(
    "--epoch", type=click.IntRange(0), default=0, show_default=True, help="Epoch whose first batches are drawn."
)
@click.option("--out", type=click.Path(path_type=Path), default="batches", show_default=True, help="Output folder.")
def show_batches(overrides: tuple[str, ...], batches: int, epoch: int, out: Path) -> None:
    """Draw the batches that training will use: augmented and padded images with their objects."""
    from pipeline import params
    from pipeline.errors import count_noun
    from pipeline.overrides import override
    from pipeline.visualization import show_batches as drawing
    from pipeline.workspace import workspace

    lines = drawing.write(override(params.load(), overrides), workspace(), epoch=epoch, count=batches, out=out)
    for line in lines:
        click.echo(line)
    click.echo(f"{count_noun(len(lines), 'picture')} in {out}", err=True)
