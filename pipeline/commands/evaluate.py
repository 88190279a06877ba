"""`fcos evaluate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pipeline.commands import options

if TYPE_CHECKING:
    from pipeline.evaluation.inputs import Inputs

_OF_FILES = ("images", "format", "overrides", "input_size", "max_detections")  # options for --gt and --dets
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
@click.pass_context
def evaluate(
    context: click.Context,
    /,
    experiment: str | None,
    gt: Path | None,
    dets: Path | None,
    weights: Path | None,
    split: str | None,
    device: str,
    metric: str,
    as_json: bool,
    **of_files: Any,
) -> None:
    """Evaluate detections against ground truth with the metrics of COCO or VOC.

    Without --gt and --dets, the detections of an experiment are evaluated as the evaluate stage does: those in this
    folder, or of an experiment of DVC, a git revision or an MLflow run. With --weights, those of another detector.
    """
    _check(context)
    from pipeline.evaluation import inputs

    if gt and dets:
        compared = inputs.of_files(gt, dets, split=split, **of_files)
    elif weights:
        from pipeline.prediction.split_evaluation import of_weights

        compared = of_weights(weights, split or "val", device, of_files["max_detections"])
    else:
        compared = _of_experiment(experiment, split or "val")
    if as_json:
        _print_json(compared)
    else:
        _print_tables(compared, metric)


def _check(context: click.Context) -> None:
    """Checks that the options belong together.

    Raises:
        click.UsageError: they don't.
    """
    given = {
        option.name: option.opts[-1]
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    }
    if ("gt" in given) != ("dets" in given):
        raise click.UsageError("give both --gt and --dets, or neither")
    if "experiment" in given and "gt" in given:
        raise click.UsageError("give an experiment, or --gt and --dets")
    if "weights" in given and given.keys() & {"experiment", "gt"}:
        raise click.UsageError("give --weights, or an experiment, or --gt and --dets")
    if "gt" not in given:
        for name in [name for name in _OF_FILES if name in given]:
            if not (name == "max_detections" and "weights" in given):
                also = " or --weights" if name == "max_detections" else ""
                raise click.UsageError(f"{given[name]} is only for --gt and --dets{also}")
    if "device" in given and "weights" not in given:
        raise click.UsageError("--device is only for --weights")


def _of_experiment(name: str | None, split: str) -> "Inputs":
    from pipeline.evaluation import inputs
    from pipeline.workspace import workspace

    if name is None:
        return inputs.of_experiment(workspace().joinpath, split)
    from pipeline.integrations.experiments import open_files

    with open_files(name) as find:
        return inputs.of_experiment(find, split, name)


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
