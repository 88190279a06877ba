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
@click.option("--out", type=click.Path(path_type=Path), help="Folder for pictures with boxes, and detections.json.")
@click.option("--json", "as_json", is_flag=True, help="Print detections as JSON, one image a line.")
@click.option("--score", default=0.3, show_default=True, help="Leave out detections below this score.")
def predict(paths: tuple[Path, ...], weights: Path | None, out: Path | None, as_json: bool, score: float) -> None:
    """Detect objects in images, or in all images of folders."""
    from pipeline import prediction
    from pipeline.files import write_json
    from pipeline.model import Model
    from pipeline.workspace import workspace

    images = prediction.images_of(paths)
    model = Model.load(weights or workspace() / "models/detector.safetensors")
    out = out or (None if as_json else Path("predictions/pictures"))
    records = []
    for one, name in zip(prediction.predict(model, images, score), prediction.out_names(images), strict=True):
        record = prediction.record(one, model)
        records.append(record)
        if out:
            prediction.save_picture(prediction.picture(one, model.class_names), out / name)
        click.echo(json.dumps(record, ensure_ascii=False) if as_json else prediction.line(record))
    if out:
        write_json(out / "detections.json", records)
        click.echo(f"{len(records)} pictures in {out}", err=True)
