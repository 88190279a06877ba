"""`fcos export`."""

from pathlib import Path

import click

from pipeline.commands import options


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
    help="Compare the detections of an ONNX file in float32 with the detector's, in at most 16 images of the "
    "validation split, or in generated ones where there is none. int8 is measured instead, .pt2 isn't compared.",
)
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
) -> None:
    """Export a detector for other programs.

    An ONNX file has everything that is needed to use it: `fcos predict --weights FILE.onnx` runs it, too.
    """
    if int8 and format != "onnx":
        raise click.UsageError("--int8 needs --format onnx")
    if calibrate and not int8:
        raise click.UsageError("--calibrate needs --int8")
    from pipeline.export import exporter
    from pipeline.inference.postprocess import project_postprocess
    from pipeline.workspace import workspace

    postprocess = project_postprocess(
        score_threshold=score,
        nms_iou_threshold=nms_iou_threshold,
        pre_nms_topk=pre_nms_topk,
        max_detections=max_detections,
    )
    options = exporter.Options(out=out, format=format, raw=raw, int8=int8, calibrate=calibrate, check=check)
    for line in exporter.export(weights or workspace() / "models/detector.safetensors", options, postprocess):
        click.echo(line)
