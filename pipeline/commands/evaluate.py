"""`fcos evaluate`."""

import json
from pathlib import Path

import click


@click.command()
@click.option("--gt", type=click.Path(path_type=Path), required=True, help="Ground truth: any COCO JSON.")
@click.option("--dets", type=click.Path(path_type=Path), required=True, help="Detections: COCO results JSON.")
@click.option("--metric", type=click.Choice(["coco", "voc"]), default="coco", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report of both metrics as JSON.")
def evaluate(gt: Path, dets: Path, metric: str, as_json: bool) -> None:
    """Evaluate detections against ground truth with the metrics of COCO or VOC."""
    from pipeline.data import detections as results
    from pipeline.evaluation import ground_truth, report, tables, voc

    truth = ground_truth.read(gt)
    detections = results.read(dets, truth)
    scores = report.evaluate(truth, detections).metrics
    if as_json:
        click.echo(json.dumps(scores, indent=2, ensure_ascii=False))
        return
    click.echo(tables.metric_table(scores, metric))
    if metric == "voc":
        click.echo("\n" + tables.voc_class_table(voc.evaluate(truth, detections)))
