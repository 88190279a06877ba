"""`fcos convert`."""

from pathlib import Path

import click

from pipeline.commands.options import set_param


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="FORMAT", help="coco, voc or yolo.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output folder; must be empty or new.")
@set_param
@click.option("--format", default="auto", show_default=True, help="Format of PATH, if it is not recognized.")
@click.option("--repair", is_flag=True, help="Repair issues of the data, or skip their records, instead of stopping.")
@click.option(
    "--corrections",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Apply a file of data/corrections/.",
)
@click.option(
    "--images",
    type=click.Choice(["copy", "link", "none"]),
    default="copy",
    show_default=True,
    help="Copy the image files, hard-link them, or leave them out.",
)
def convert(
    path: Path,
    to: str,
    out: Path,
    overrides: tuple[str, ...],
    format: str,
    repair: bool,
    corrections: Path | None,
    images: str,
) -> None:
    """Convert the data set at PATH, a folder or an archive, to another format, with all its splits."""
    from pipeline.conversion import export

    values = export.load_params(overrides, format=format, repair=repair)
    result = export.export(path, to, out, values, images=images, corrections=corrections)
    for line in export.describe_export(result, to, out):
        click.echo(line)
