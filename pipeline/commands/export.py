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
    "--int8", is_flag=True, help="Quantize to int8; AP and speed are measured, and written beside it as JSON."
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
@click.option("--nms-iou-threshold", type=click.FloatRange(0, 1), help="As for the score.")
@click.option("--pre-nms-topk", type=click.IntRange(1), help="As for the score.")
@click.option("--max-detections", type=click.IntRange(1), help="As for the score.")
@click.option(
    "--check/--no-check",
    default=True,
    help="Compare the file's detections with the detector's, in images of the validation split.",
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
    import torch

    from pipeline.errors import count_noun
    from pipeline.export import detector_files, images, measurement, parity
    from pipeline.inference.postprocess import project_postprocess
    from pipeline.inference.saved_detector import SavedDetector
    from pipeline.workspace import workspace

    weights = weights or workspace() / "models/detector.safetensors"
    suffix = ".int8.onnx" if int8 else {"onnx": ".onnx", "torch": ".pt2"}[format]
    out = out or Path("exported", weights.stem + suffix)
    detector_files.check_location(out)
    postprocess = project_postprocess(
        score_threshold=score,
        nms_iou_threshold=nms_iou_threshold,
        pre_nms_topk=pre_nms_topk,
        max_detections=max_detections,
    )
    raw = raw or format == "torch"
    if not raw:
        detector_files.check_postprocess(postprocess)
    model = SavedDetector.load(weights, torch.device("cpu"))
    about = detector_files.metadata(model, weights, postprocess, raw=raw)

    def compared() -> list[torch.Tensor]:
        return images.for_comparison(weights, model.description.input_size)

    def check_file(path: Path) -> None:
        if check:
            found = parity.compare_file(path, model, compared(), postprocess)
            parity.require_parity(found)
            click.echo(f"compared with {weights}: {found.describe()}")

    if format == "torch":
        detector_files.write_torch(model, about, out)
    elif int8:
        calibration, calibrated_on = images.for_calibration(weights, calibrate)
        report = detector_files.write_int8(
            model,
            about,
            out,
            calibration,
            lambda *files: measurement.measure(files, weights, compared(), calibrated_on, postprocess),
        )
        click.echo(measurement.describe(report))
    else:
        detector_files.write_onnx(model, about, out, check_file)
    part = "the network of a detector" if raw else "a detector"
    click.echo(f"{out}: {part} of {count_noun(len(model.class_names), 'class', 'classes')}")
