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
    """FCOS object detection: choose, predict, evaluate, look."""


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


@main.command()
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: params.yaml of the project.")
@click.option("--force", is_flag=True, help="Replace a file that git has not committed as it is.")
def recipes(name: str | None, out: Path | None, force: bool) -> None:
    """List the recipes, or write the one called NAME to params.yaml."""
    from pipeline import recipes as known
    from pipeline.workspace import workspace

    if name is None and (out or force):
        raise click.UsageError("--out and --force need the NAME of a recipe")
    if name is None:
        for recipe in known.recipes().values():
            click.echo(f"{recipe.name}\n    {recipe.description}\n    Reached: {recipe.reached}")
        return
    recipe, path = known.find(name), out or workspace() / "params.yaml"
    known.write(recipe, path, force=force)
    click.echo(f"{path}: {recipe.description}")


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default="explained", show_default=True, help="Folder.")
@click.option("--weights", type=click.Path(path_type=Path), help="Default: models/detector.safetensors, where it is.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Look for the images in this split alone.")
def explain(images: tuple[Path, ...], out: Path, weights: Path | None, split: str | None) -> None:
    """See which locations learn which object of an image, and what the trained detector says of each location."""
    from pipeline import params
    from pipeline.explain import writing
    from pipeline.explain.truth import DataSet
    from pipeline.workspace import workspace

    values, home = params.load(), workspace()
    data = DataSet(home, values.dataset, split)
    model, problem = writing.detector(weights, home / "models/detector.safetensors")
    if problem:
        click.echo(f"fcos: no heat maps: {problem}", err=True)
    for record in writing.write(values, data, model, images, out):
        click.echo(writing.line(record))
    click.echo(f"pictures and explained.json in {out}", err=True)


@main.command("show-batches")
@click.option("--batches", type=click.IntRange(1), default=4, show_default=True, help="How many, from the first on.")
@click.option("--epoch", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="batches", show_default=True, help="Folder.")
def show_batches(batches: int, epoch: int, out: Path) -> None:
    """See what training will see: its batches, augmented and padded, with their objects."""
    from pipeline import params, showing
    from pipeline.workspace import workspace

    shown = showing.write(params.load(), workspace(), epoch=epoch, count=batches, out=out)
    for line in shown:
        click.echo(line)
    click.echo(f"{len(shown)} pictures in {out}", err=True)


@main.command()
@click.option("--size", nargs=2, type=click.IntRange(1), help="Height and width of an image; default: train.size.")
@click.option("--batch", type=click.IntRange(1), help="Images of a training step; default: train.batch_size.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def summary(size: tuple[int, int] | None, batch: int | None, as_json: bool) -> None:
    """See what params.yaml's detector is made of, what it costs, and how many objects it could find at best."""
    from pipeline import params
    from pipeline import summary as summing
    from pipeline.workspace import workspace

    values = params.load()
    split, problem = summing.data(values, workspace())
    classes = len(split.categories) if split else summing.COCO_CLASSES
    detector = summing.blank(values.model, classes)
    made = summing.network(detector, size or values.train.size)
    needed = summing.memory(values, detector, size or values.train.size, batch or values.train.batch_size)
    found = summing.recall(values, split) if split and not problem else None
    if as_json:
        click.echo(json.dumps(summing.record(classes, made, needed, found), indent=2, ensure_ascii=False))
    else:
        click.echo(summing.text(values, classes, made, needed) + "\n")
    if problem:
        click.echo(f"fcos: {problem}", err=True)
    elif found and not as_json:
        click.echo(summing.recall_text(found))


@main.command()
def check() -> None:
    """Run one step of everything in params.yaml: memory, speed, and how long the whole training would take."""
    from pipeline import check as checking
    from pipeline import params
    from pipeline.workspace import workspace

    values, home = params.load(), workspace()
    train, val = checking.read(home)
    measured, advice = checking.check(values, train, val, home / "data/raw" / values.dataset)
    click.echo(checking.text(measured))
    for line in advice:
        click.echo(f"fcos: {line}", err=True)


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--format", default="auto", show_default=True, help="Of the annotations; auto: recognise it.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with pictures and charts.")
@click.option("--size", nargs=2, type=click.IntRange(1), help="Input height and width; default: train.size.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def validate(path: Path, format: str, html: Path | None, size: tuple[int, int] | None, as_json: bool) -> None:
    """See what is wrong with the data set in a folder or an archive; exit status 1: training would go wrong."""
    from pipeline import validation

    if html:
        validation.check_page_name(html)
    values = validation.parameters(size)
    with validation.opened(path) as raw:
        health = validation.look(raw, values.convert, format)
        if html:
            from pipeline.validation import page

            page.write(health, raw, path.resolve().name, values, html)
    answer = json.dumps(validation.record(health), indent=2, ensure_ascii=False) if as_json else validation.text(health)
    click.echo(answer)
    if html:
        click.echo(f"{html}: open it in a browser", err=True)
    sys.exit(0 if health.usable else 1)


@main.command()
@click.argument("name", required=False)
def datasets(name: str | None) -> None:
    """List the data sets that `dataset` may name, or show the whole entry called NAME, or a .yaml of your own."""
    from pipeline.datasets import registry

    click.echo(registry.text(name) if name else "\n".join(registry.listing()))


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="FORMAT", help="coco, voc or yolo.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder; must be empty or not there yet.")
@click.option("--format", default="auto", show_default=True, help="What PATH is in, where that isn't clear.")
@click.option("--repair", is_flag=True, help="Mend or leave out what is wrong with the data; default: stop there.")
@click.option("--images", type=click.Choice(["copy", "link", "none"]), default="copy", show_default=True)
def convert(path: Path, to: str, out: Path, format: str, repair: bool, images: str) -> None:
    """Write a data set, a folder or an archive, in another format, with all its splits."""
    from pipeline import export

    done = export.export(path, to, out, format=format, repair=repair, images=images)
    for line in export.account(done, to, out):
        click.echo(line)
