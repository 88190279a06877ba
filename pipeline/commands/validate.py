"""`fcos validate`."""

import json
import sys
from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--format", default="auto", show_default=True, help="Of the annotations; auto: recognize it.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with pictures and charts.")
@click.option("--size", nargs=2, type=click.IntRange(1), help="Input height and width; default: train.size.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def validate(path: Path, format: str, html: Path | None, size: tuple[int, int] | None, as_json: bool) -> None:
    """See what is wrong with the data set in a folder or an archive; exit status 1: training would go wrong."""
    from pipeline.analysis import health as validation

    if html:
        validation.check_page_name(html)
    values = validation.parameters(size)
    with validation.opened(path) as raw:
        health = validation.look(raw, values.convert, format)
        if html:
            from pipeline.visualization import health_page as page

            page.write(health, raw, path.resolve().name, values, html)
    answer = json.dumps(validation.record(health), indent=2, ensure_ascii=False) if as_json else validation.text(health)
    click.echo(answer)
    if html:
        click.echo(f"{html}: open it in a browser", err=True)
    sys.exit(0 if health.usable else 1)
