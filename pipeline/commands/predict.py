"""`fcos predict`."""

import json
from pathlib import Path

import click


@click.command()
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
    from pipeline.inference import predict as prediction
    from pipeline.inference.device import choose_device
    from pipeline.inference.model import Model
    from pipeline.visualization import predictions
    from pipeline.workspace import workspace

    out = out or (None if as_json else Path("predicted"))
    images = prediction.find_images(paths, out)
    model = Model.load(weights or workspace() / "models/detector.safetensors", choose_device(device))
    for record in predictions.write(model, images, score, out):
        click.echo(json.dumps(record, ensure_ascii=False) if as_json else prediction.line(record))
    if out:
        click.echo(f"{len(images)} pictures in {out}", err=True)
