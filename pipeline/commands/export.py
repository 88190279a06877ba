"""`fcos export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands import options

if TYPE_CHECKING:
    from fcos.postprocess import Postprocess


@click.command()
@options.weights
@click.option(
    "--format",
    type=click.Choice(["onnx", "torch"]),
    default="onnx",
    show_default=True,
    help="onnx: from images to detections, in one file; torch: the network as torch.export's program (.pt2).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Default: in the folder exported, named as the weights, with the suffix .onnx or .pt2.",
)
@click.option("--raw", is_flag=True, help="End with the network's outputs, without post-processing.")
@click.option(
    "--int8", is_flag=True, help="Quantize to int8; AP and speed are measured, and written to NAME.onnx.json."
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with images for --int8. Default: images of the training split.",
)
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    help="Default of the file's score threshold. Default: postprocess.score_threshold of params.yaml.",
)
@click.option(
    "--nms-iou-threshold",
    type=click.FloatRange(0, 1),
    help="Default of the file's IoU threshold. Default: postprocess.nms_iou_threshold of params.yaml.",
)
@click.option(
    "--pre-nms-topk",
    type=click.IntRange(1),
    help="Default of the file's candidates per level. Default: postprocess.pre_nms_topk of params.yaml.",
)
@click.option(
    "--max-detections",
    type=click.IntRange(1),
    help="Default of the file's limit of detections. Default: postprocess.max_detections of params.yaml.",
)
@click.option(
    "--check/--no-check",
    default=True,
    help="Compare the file's detections with the detector's in the validation split, or in generated images where "
    "there is none. int8 is measured instead.",
)
@click.option(
    "--check-images", type=click.IntRange(1), metavar="N", help="Compare in N images of the validation split only."
)
@options.set_param
def export(
    weights: Path | None,
    format: str,
    out: Path | None,
    raw: bool,
    int8: bool,
    calibrate: Path | None,
    score: float | None,
    nms_iou_threshold: float | None,
    pre_nms_topk: int | None,
    max_detections: int | None,
    check: bool,
    check_images: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Export a detector for other programs.

    An ONNX file has everything that is needed to use it: `fcos predict --weights FILE.onnx` runs it, too.
    """
    if int8 and format != "onnx":
        raise click.UsageError("--int8 needs --format onnx")
    if calibrate and not int8:
        raise click.UsageError("--calibrate needs --int8")
    if check_images and (int8 or not check):
        raise click.UsageError(
            f"--check-images needs a comparison, which {'--int8' if int8 else '--no-check'} leaves out"
        )
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~").strip()
        if key.partition(".")[0] != "postprocess":
            raise click.UsageError(
                f"-S {text}: an export uses the parameters postprocess.* only; {key} is of the detector, which is "
                "exported as it was trained"
            )
    from pipeline.export import exporter
    from pipeline.workspace import workspace

    postprocess = _postprocess(
        overrides,
        score_threshold=score,
        nms_iou_threshold=nms_iou_threshold,
        pre_nms_topk=pre_nms_topk,
        max_detections=max_detections,
    )
    options = exporter.Options(
        out=out, format=format, raw=raw, int8=int8, calibrate=calibrate, check=check, check_images=check_images
    )
    for line in exporter.export(weights or workspace() / "models/detector.safetensors", options, postprocess):
        click.echo(line)


def _postprocess(overrides: tuple[str, ...], **values: float | None) -> "Postprocess":
    """The project's post-processing, with parameters and options of the command in their place."""
    from pipeline import params
    from pipeline.inference.postprocess import make_postprocess, project_postprocess
    from pipeline.overrides import override

    if overrides:
        return make_postprocess(override(params.load(), overrides).postprocess, **values)
    return project_postprocess(**values)
