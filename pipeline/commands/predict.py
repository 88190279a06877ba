"""`fcos predict`."""

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.commands import options

_SIDE = click.IntRange(1, 16_384)


@click.command()
@click.argument("inputs", nargs=-1, required=True)
@options.weights
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for what is written. Default: predicted, or none with --json alone.",
)
@click.option(
    "--save",
    metavar="KIND,…",
    help="What is written: pictures and videos with boxes (pictures), detections.json and a line of JSON for each "
    "frame (json); of images, also csv, crops, and data sets with detections as annotations: coco (with results.json, "
    "COCO results), yolo, voc. Default: pictures,json.",
)
@click.option(
    "--images",
    type=click.Choice(["copy", "link", "none"]),
    default="copy",
    show_default=True,
    help="Copy the image files into these data sets, hard-link them, or leave them out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print detections as JSON, one line per image or frame.")
@click.option("--classes", metavar="NAME,…", help="Classes to detect. Default: all.")
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    help="Lowest score of a detection. Default: that with the best F1 on the validation split, for each class; "
    "0.4 if the detector hasn't been evaluated.",
)
@click.option(
    "--max-detections", type=click.IntRange(1), help="Of an image. Default: postprocess.max_detections of params.yaml."
)
@click.option(
    "--nms-iou-threshold", type=click.FloatRange(0, 1), help="Default: postprocess.nms_iou_threshold of params.yaml."
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="Largest number of images in a batch; those of equal size share one. Default: 8, and fewer on a CPU for "
    "a detector with a large input.",
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
@options.max_megapixels(150)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Videos: detect in each N-th frame. The frames between show its boxes.",
)
@click.option("--track", is_flag=True, help="Videos: number the objects, so that each keeps its number (ByteTrack).")
@options.device
def predict(inputs: tuple[str, ...], **values: Any) -> None:
    """Detect objects in images and videos: files, folders, patterns in quotation marks, or - for a list on standard
    input.

    What can't be read is reported and left out; the exit status is then 1.
    Post-processing is that of params.yaml, or that in an ONNX file; outside a project, it is the default. Without
    --size, --flip, and --tiles, objects are detected in the views of each image that the detector's evaluation used.
    """
    from pipeline.prediction.options import Options
    from pipeline.prediction.run import run
    from pipeline.process import handling_signals

    with handling_signals("fcos"):  # so that no partial video stays
        is_complete = run(inputs, Options(**values), click.echo)
    if not is_complete:
        sys.exit(1)
