"""`fcos evaluate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands import options

if TYPE_CHECKING:
    from pipeline.evaluation.inputs import Inputs

_TITLES = {"ground_truth": "Ground truth", "detections": "Detections", "coco": "Protocol", "voc": "Protocol"}


@click.command()
@click.argument("experiment", required=False)
@click.option(
    "--gt",
    type=click.Path(path_type=Path),
    help="Ground truth: a COCO JSON, or the folder or archive of a data set in any format. Default: this project's.",
)
@click.option(
    "--dets",
    type=click.Path(path_type=Path),
    help="Detections: COCO results, detections.json of `fcos predict`, or a folder of YOLO's or VOC's text files.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A detector, .safetensors or .onnx, whose detections in a split of this project are evaluated.",
)
@click.option("--split", help="Split of the ground truth, where it has several. In this project: val or test.")
@click.option("--images", type=click.Path(path_type=Path, file_okay=False), help="Folder with the images of --gt.")
@click.option("--format", default="auto", show_default=True, help="Format of --gt, if it is not recognized.")
@options.set_param
@click.option("--input-size", nargs=2, type=click.IntRange(1), help="train.size of the detector, for AP by size.")
@click.option("--max-detections", type=click.IntRange(1), help="Detections of an image that the detector keeps.")
@options.device
@click.option("--metric", type=click.Choice(["coco", "voc"]), default="coco", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the report of both metrics as JSON.")
def evaluate(
    experiment: str | None,
    gt: Path | None,
    dets: Path | None,
    weights: Path | None,
    split: str | None,
    images: Path | None,
    format: str,
    overrides: tuple[str, ...],
    input_size: tuple[int, int] | None,
    max_detections: int | None,
    device: str,
    metric: str,
    as_json: bool,
) -> None:
    """Evaluate detections against ground truth with the metrics of COCO or VOC.

    Without --gt and --dets, the detections of an experiment are evaluated as the evaluate stage does: those in this
    folder, or of an experiment of DVC, a git revision or an MLflow run. With --weights, those of another detector.
    """
    if (gt is None) != (dets is None):
        raise click.UsageError("give both --gt and --dets, or neither")
    if experiment and gt:
        raise click.UsageError("give an experiment, or --gt and --dets")
    if weights and (experiment or gt):
        raise click.UsageError("give --weights, or an experiment, or --gt and --dets")
    from pipeline.evaluation import inputs
    from pipeline.workspace import workspace

    if gt and dets:
        compared = inputs.of_files(
            gt,
            dets,
            format=format,
            split=split,
            images=images,
            overrides=overrides,
            input_size=input_size,
            max_detections=max_detections,
        )
    elif weights:
        from pipeline.prediction.split_evaluation import of_weights

        compared = of_weights(weights, split or "val", device)
    elif experiment:
        from pipeline.integrations.experiments import open_files

        with open_files(experiment) as find:
            compared = inputs.of_experiment(find, split or "val", experiment)
    else:
        compared = inputs.of_experiment(workspace().joinpath, split or "val")
    if as_json:
        _print_json(compared)
    else:
        _print_tables(compared, metric)


def _print_json(compared: "Inputs") -> None:
    found = compared.evaluate()
    content = {
        "protocol": compared.protocol("coco", "voc"),
        **found.metrics,
        "operating_points": found.operating_points.to_json(),
    }
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _print_tables(compared: "Inputs", metric: str) -> None:
    from pipeline.evaluation import tables, voc

    sizes_of = "the network input" if compared.input_size else "the image"
    click.echo(tables.metric_table(compared.evaluate().metrics, metric, sizes_of=sizes_of))
    if metric == "voc":
        click.echo("\n" + tables.voc_class_table(voc.evaluate(compared.truth, compared.detections)))
    click.echo()
    for name, text in compared.protocol(metric).items():
        click.echo(f" {_TITLES[name]}: {text}")
