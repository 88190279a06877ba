"""`fcos predict`."""

import json
import sys
from pathlib import Path

import click

from pipeline.commands import options

_SIDE = click.IntRange(1, 16_384)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.weights
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for pictures with boxes and detections.json. Default: predicted, or none with --json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print detections as JSON, one line per image.")
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    help="Lowest score of a detection. Default: that with the best F1 on the validation split, for each class; "
    "0.4 if the detector hasn't been evaluated.",
)
@click.option("--max-detections", type=click.IntRange(1), help="Default: postprocess.max_detections of params.yaml.")
@click.option(
    "--nms-iou-threshold", type=click.FloatRange(0, 1), help="Default: postprocess.nms_iou_threshold of params.yaml."
)
@click.option(
    "--size",
    "sizes",
    type=(_SIDE, _SIDE),
    multiple=True,
    metavar="SHORTER LONGER",
    help="Size to which images are resized, as evaluate.sizes; repeat the option for several sizes. "
    "Height and width for a detector trained with letterbox.",
)
@click.option("--flip/--no-flip", default=None, help="Detect in the mirrored image, too.")
@click.option(
    "--tiles",
    type=(click.IntRange(1), click.FloatRange(0, 0.9)),
    metavar="SIDE OVERLAP",
    help="Detect in tiles of larger images, too: side in pixels and overlap as a fraction, such as 640 0.2.",
)
@click.option("--merge", type=click.Choice(["nms", "wbf"]), help="As evaluate.merge.")
@click.option("--plain", is_flag=True, help="Detect once in each image, except for views that other options add.")
@click.option(
    "--max-megapixels",
    type=click.FloatRange(0, min_open=True),
    default=150,
    show_default=True,
    help="Larger images are not decoded.",
)
@options.device
def predict(
    paths: tuple[Path, ...],
    weights: Path | None,
    out: Path | None,
    as_json: bool,
    score: float | None,
    max_detections: int | None,
    nms_iou_threshold: float | None,
    sizes: tuple[tuple[int, int], ...],
    flip: bool | None,
    tiles: tuple[int, float] | None,
    merge: str | None,
    plain: bool,
    max_megapixels: float,
    device: str,
) -> None:
    """Detect objects in images, or in all images of folders.

    An image that can't be read is reported and left out; the exit status is then 1.
    Post-processing is that of params.yaml, or the default outside a project. Without --size, --flip, and --tiles,
    images are detected as in the detector's evaluation.
    """
    from pipeline.data.image_files import PixelLimit
    from pipeline.errors import PipelineError, count_noun
    from pipeline.inference.device import choose_device
    from pipeline.inference.postprocess import project_postprocess
    from pipeline.inference.predict import find_images, format_record
    from pipeline.inference.recorded_views import choose_views
    from pipeline.inference.saved_detector import SavedDetector
    from pipeline.inference.score_thresholds import score_thresholds
    from pipeline.visualization import predictions
    from pipeline.workspace import workspace

    out = out or (None if as_json else Path("predicted"))
    images = find_images(paths, out)
    limit = PixelLimit(max_megapixels, "--max-megapixels ")
    postprocess = project_postprocess(max_detections=max_detections, nms_iou_threshold=nms_iou_threshold)
    weights = weights or workspace() / "models/detector.safetensors"
    model = SavedDetector.load(weights, choose_device(device))
    thresholds = score_thresholds(weights, model.class_names, score)
    views, note = choose_views(
        weights, plain=plain, score=score, sizes=sizes or None, flip=flip, tiles=tiles, merge=merge
    )
    if note:
        click.echo(f"fcos: {note}", err=True)
    done, failed = 0, 0

    def on_error(error: PipelineError) -> None:
        nonlocal failed
        failed += 1
        click.echo(f"fcos: {error}", err=True)

    for record in predictions.write(model, images, thresholds, out, postprocess, views, limit, on_error=on_error):
        done += 1
        click.echo(json.dumps(record, ensure_ascii=False) if as_json else format_record(record))
    if out and done:
        click.echo(f"{count_noun(done, 'picture')} in {out}", err=True)
    if failed:
        sys.exit(1)
