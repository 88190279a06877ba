"""`fcos evaluate`."""

import json
from pathlib import Path

import click


@click.command()
@click.option("--gt", type=click.Path(path_type=Path), required=True, help="Ground truth: any COCO JSON.")
@click.option("--dets", type=click.Path(path_type=Path), required=True, help="Detections: COCO results JSON.")
@click.option("--metric", type=click.Choice(["coco", "voc"]), default="coco", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the whole report, of both metrics, as JSON.")
def evaluate(gt: Path, dets: Path, metric: str, as_json: bool) -> None:
    """Score detections against ground truth."""
    from pipeline.data import detections as results
    from pipeline.evaluation import ground_truth as truth
    from pipeline.evaluation import report, voc

    objects = truth.read(gt)
    detections = results.read(dets, objects)
    scores = report.evaluate(objects, detections)
    if as_json:
        click.echo(json.dumps(scores, indent=2, ensure_ascii=False))
        return
    click.echo(report.table(scores, metric))
    if metric == "voc":
        click.echo("\n" + report.voc_classes(voc.evaluate(objects, detections)))
