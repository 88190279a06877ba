"""`fcos explain`."""

from pathlib import Path

import click


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="explained",
    show_default=True,
    help="Folder for the pictures and explained.json.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="Default: models/detector.safetensors, if it exists.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Search only this split for the images.")
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    help="Lowest score of a detection that is drawn. Default: as in `fcos predict`.",
)
@click.option("--max-detections", type=click.IntRange(1), help="Default: postprocess.max_detections of params.yaml.")
@click.option(
    "--nms-iou-threshold", type=click.FloatRange(0, 1), help="Default: postprocess.nms_iou_threshold of params.yaml."
)
def explain(
    images: tuple[Path, ...],
    out: Path,
    weights: Path | None,
    split: str | None,
    score: float | None,
    max_detections: int | None,
    nms_iou_threshold: float | None,
) -> None:
    """Draw which locations learn which object of an image, and the trained detector's outputs at each location."""
    from pipeline import params
    from pipeline.analysis.image_lookup import DataSet
    from pipeline.inference.postprocess import make_postprocess
    from pipeline.inference.score_thresholds import score_thresholds
    from pipeline.visualization import explain as explanations
    from pipeline.workspace import workspace

    values, home = params.load(), workspace()
    data = DataSet(home, values.dataset, split)
    default = home / "models/detector.safetensors"
    model, problem = explanations.load_detector(weights, default)
    if problem:
        click.echo(f"fcos: no heat maps: {problem}", err=True)
    postprocess = make_postprocess(
        values.postprocess, max_detections=max_detections, nms_iou_threshold=nms_iou_threshold
    )
    thresholds = score_thresholds(weights or default, model.class_names, score) if model else []
    for record in explanations.write(values, data, model, images, out, postprocess, thresholds):
        click.echo(explanations.summary_line(record))
    click.echo(f"pictures and explained.json in {out}", err=True)
