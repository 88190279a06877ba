"""The `fcos` command. Commands import what they need when they run: `fcos --help` answers at once."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.errors import PipelineError


class _OneLineErrors(click.Group):
    """Turns what a person can mend into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            click.echo(f"fcos: {error}", err=True)
            sys.exit(1)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """FCOS object detection: predict, evaluate, look."""


@main.command()
@click.option("--gt", type=click.Path(path_type=Path), required=True, help="Ground truth: any COCO JSON.")
@click.option("--dets", type=click.Path(path_type=Path), required=True, help="Detections: COCO results JSON.")
@click.option("--metric", type=click.Choice(["coco", "voc"]), default="coco", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the whole report, of both metrics, as JSON.")
def evaluate(gt: Path, dets: Path, metric: str, as_json: bool) -> None:
    """Score detections against ground truth."""
    from pipeline.metrics import report, results, truth, voc

    objects = truth.read(gt)
    detections = results.read(dets, objects)
    scores = report.evaluate(objects, detections)
    if as_json:
        click.echo(json.dumps(scores, indent=2, ensure_ascii=False))
        return
    click.echo(report.table(scores, metric))
    if metric == "voc":
        click.echo("\n" + report.voc_classes(voc.evaluate(objects, detections)))
