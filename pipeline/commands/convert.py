"""`fcos convert`."""

from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="FORMAT", help="coco, voc or yolo.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder; must be empty or not there yet.")
@click.option("--format", default="auto", show_default=True, help="What PATH is in, where that isn't clear.")
@click.option("--repair", is_flag=True, help="Mend or leave out what is wrong with the data; default: stop there.")
@click.option("--images", type=click.Choice(["copy", "link", "none"]), default="copy", show_default=True)
def convert(path: Path, to: str, out: Path, format: str, repair: bool, images: str) -> None:
    """Write a data set, a folder or an archive, in another format, with all its splits."""
    from pipeline.conversion import export

    done = export.export(path, to, out, format=format, repair=repair, images=images)
    for line in export.describe_export(done, to, out):
        click.echo(line)
