"""`fcos validate`."""

import json
import sys
from pathlib import Path

import click

from pipeline.commands.options import set_param


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@set_param
@click.option("--format", default="auto", show_default=True, help="Annotation format; auto: recognize it.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with pictures and charts.")
@click.option("--size", nargs=2, type=click.IntRange(1), help="Input height and width. Default: train.size.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def validate(
    path: Path, overrides: tuple[str, ...], format: str, html: Path | None, size: tuple[int, int] | None, as_json: bool
) -> None:
    """Check the data set in a folder or an archive. The exit status is 1 if it is not ready for training."""
    from pipeline.analysis import health as validation
    from pipeline.datasets.staging import open_dataset

    if html:
        validation.check_page_name(html)
    values = validation.load_params(size, overrides)
    format = values.download.format if format == "auto" else format
    with open_dataset(path, format, follow_links=values.download.follow_links) as raw:
        health = validation.examine(raw, values.convert, format)
        if html:
            from pipeline.visualization import health_page

            health_page.write(health, raw, path.resolve().name, values, html)
    if as_json:
        click.echo(json.dumps(validation.to_record(health), indent=2, ensure_ascii=False))
    else:
        click.echo(validation.report(health, values.train))
    if html:
        click.echo(f"{html}: open it in a browser", err=True)
    sys.exit(0 if health.usable else 1)
