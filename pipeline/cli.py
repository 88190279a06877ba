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
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path), help="Default: models/detector.safetensors.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for pictures with boxes and detections.json; default: predicted, or none with --json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print detections as JSON, one image a line.")
@click.option("--score", default=0.4, show_default=True, help="Leave out detections below this score.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def predict(
    paths: tuple[Path, ...], weights: Path | None, out: Path | None, as_json: bool, score: float, device: str
) -> None:
    """Detect objects in images, or in all images of folders."""
    from pipeline import prediction
    from pipeline.model import Model, choose_device
    from pipeline.workspace import workspace

    out = out or (None if as_json else Path("predicted"))
    images = prediction.images_of(paths, out)
    model = Model.load(weights or workspace() / "models/detector.safetensors", choose_device(device))
    for record in prediction.write(model, images, score, out):
        click.echo(json.dumps(record, ensure_ascii=False) if as_json else prediction.line(record))
    if out:
        click.echo(f"{len(images)} pictures in {out}", err=True)


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


@main.command("import-weights")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Default: models/detector.safetensors.")
@click.option("--categories", type=click.Path(path_type=Path), help="COCO JSON with the classes; default: COCO's.")
def import_weights(file: Path, out: Path | None, categories: Path | None) -> None:
    """Make a detector of a file of torchvision's fcos_resnet50_fpn, .pth or .safetensors."""
    from pipeline import importing
    from pipeline.workspace import workspace

    out = out or workspace() / "models/detector.safetensors"
    about = importing.import_weights(file, out, categories)
    click.echo(f"{out}: a detector of {len(about.categories)} classes; fcos predict uses it")


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(port: int) -> None:
    """Compare the runs: MLflow's page on 127.0.0.1, until Ctrl-C."""
    from pipeline import ui as page

    with page.server(port) as server:
        click.echo(f"MLflow: {server.address}  (Ctrl-C stops it)")
        server.wait()


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5151, show_default=True)
def app(port: int) -> None:
    """Look at detections and failures: FiftyOne's App on 127.0.0.1, until Ctrl-C."""
    from pipeline import params, viewer

    with viewer.app(viewer.source(params.load()), port) as server:
        click.echo(f"FiftyOne: {server.address}  (Ctrl-C stops it)")
        server.wait()
