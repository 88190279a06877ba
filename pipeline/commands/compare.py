"""`fcos compare`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from pipeline.evaluation.comparison_report import Report
    from pipeline.integrations.experiments import FindFile


@click.command()
@click.argument("experiments", nargs=-1, required=True, metavar="A B [C…]")
@click.option("--gt", type=click.Path(path_type=Path), help="Ground truth of files of detections: any COCO JSON.")
@click.option("--split", type=click.Choice(["val", "test"]), default="val", show_default=True)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with the changed images.")
@click.option("--app", is_flag=True, help="Show the changed images in FiftyOne's App on 127.0.0.1, until Ctrl-C.")
@click.option("--port", type=click.IntRange(1, 65535), default=5151, show_default=True, help="Of the App.")
@click.option("--images", type=click.Path(path_type=Path, file_okay=False), help="Folder with the images for both.")
@click.option(
    "--fail-below", type=float, metavar="POINTS", help="Exit with 1 if AP changes by less: −0.5 is a loss of 0.005."
)
@click.option(
    "--by",
    type=click.Choice(["difference", "lower"]),
    default="difference",
    show_default=True,
    help="What --fail-below looks at: the difference, or the lower bound of its interval.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def compare(
    experiments: tuple[str, ...],
    gt: Path | None,
    split: str,
    html: Path | None,
    app: bool,
    port: int,
    images: Path | None,
    fail_below: float | None,
    by: Literal["difference", "lower"],
    as_json: bool,
) -> None:
    """Compare experiments with the first one: parameters, metrics with intervals, classes, images.

    An experiment is `workspace`, a file of detections, the name of an experiment of DVC, a git revision, or the name or
    id of an MLflow run. Nothing is run: detections come from DVC's cache.
    """
    if len(experiments) < 2:
        raise click.UsageError("give at least two experiments")
    from pipeline.analysis.health import check_page_name
    from pipeline.evaluation import comparison, comparison_report
    from pipeline.integrations.experiments import open_experiments

    if html:
        check_page_name(html)
    with open_experiments(experiments, truth_file=gt, split=split, images=images) as found:
        truth = found[0].truth
        for experiment in found:
            for note in experiment.notes:
                click.echo(f"fcos: {experiment.name}: {note}", err=True)
        evaluations = [comparison.evaluate(truth, item.detections, chosen=item.chosen) for item in found]
        report = comparison_report.compare(truth, experiments, [item.params for item in found], evaluations)
        click.echo(
            json.dumps(comparison_report.to_json(report), indent=2, ensure_ascii=False)
            if as_json
            else comparison_report.to_text(report)
        )
        find_image = next((item.find_image for item in found if item.find_image), None)
        if html:
            from pipeline.visualization import comparison_page

            comparison_page.write(report, find_image, html)
            click.echo(f"{html}: open it in a browser", err=True)
        if app:
            _serve(report, find_image, port)
    if fail_below is not None:
        failures = list(comparison_report.failures(report, fail_below / 100, by))
        for line in failures:
            click.echo(f"fcos: {line}", err=True)
        sys.exit(1 if failures else 0)


def _serve(report: "Report", find_image: "FindFile | None", port: int) -> None:
    from pipeline.integrations import fiftyone_comparison

    with fiftyone_comparison.app(report, find_image, port) as server:
        click.echo(f"FiftyOne: {server.address}  (Ctrl-C stops it)", err=True)
        server.wait()
