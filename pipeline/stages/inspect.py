"""Shows the detector's errors: contact sheets and a page of the worst cases, and a FiftyOne dataset for browsing.

Reads data/unified/<split>.json, predictions/, the digest of the detector and data/raw/<dataset>/; for the page also
metrics/ and plots/ of evaluation, and what else there is in reports/.
Writes reports/failures/, maps of the embeddings, reports/inspection.html and metrics/inspect.json, fills the FiftyOne
dataset, and adds to the experiment's MLflow run.
"""

from pipeline import process

if __name__ == "__main__":  # before the imports below, which take seconds
    process.postpone_collection()

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.data import annotations, detections
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import embedding_maps, error_kinds
from pipeline.evaluation.embedding_files import Embeddings
from pipeline.evaluation.embedding_maps import NeighborVote
from pipeline.evaluation.error_kinds import ImageErrors
from pipeline.files import atomic_replace, digest, write_json
from pipeline.inference.score_thresholds import thresholds_of_predictions
from pipeline.integrations import fiftyone, mlflow
from pipeline.params import Params
from pipeline.runner import run_stage
from pipeline.visualization.inspection import embedding_plots, failure_sheets, page
from pipeline.visualization.inspection.failure_sheets import Group
from pipeline.visualization.inspection.page import Inspection
from pipeline.workspace import workspace


def run(params: Params) -> None:
    split, home = f"{params.inspect.split}.json", workspace()
    dataset = fiftyone.dataset_spec(params)  # first, since it raises an error if a file is missing
    truth = annotations.read(home / "data/unified" / split)
    names = [category.name for category in truth.categories]
    thresholds = thresholds_of_predictions(home, names, params.inspect.score_threshold)
    found = detections.read(home / "predictions" / split, truth)
    errors = error_kinds.analyze(
        truth,
        found,
        score_threshold={category.id: score for category, score in zip(truth.categories, thresholds, strict=True)},
        iou_threshold=params.inspect.iou_threshold,
    )
    report, metrics = home / "reports/failures", home / "metrics/inspect.json"
    groups = write_sheets(params, truth, errors, thresholds, report)
    vote, maps = map_embeddings(params, truth, found, errors)
    print(vote.describe())  # noqa: T201
    counts: dict[str, Any] = {"errors": count_errors(errors), "embeddings": vote.to_json()}
    if params.inspect.fiftyone:
        counts |= fiftyone.refresh(dataset)
    sent, options = home / "reports/inspection.html", params.inspect
    inspection = Inspection(
        params.dataset, options.split, truth, errors, thresholds, options.iou_threshold, groups, counts,
        has_map=options.embeddings is not None,
    )  # fmt: skip
    page.write(home, inspection, sent)
    write_json(metrics, counts)
    # The evaluate stage tags its run with the digest of these detections, whichever split is shown here.
    with mlflow.inspect_run(params, digest(home / "predictions/val.json")) as mlflow_run:
        mlflow_run.log_metrics(
            {
                f"inspect/{group}/{name}": number
                for group in ("errors", "embeddings", "views")
                for name, number in counts.get(group, {}).items()
                if number is not None
            }
        )
        mlflow_run.log_artifacts(report, sent, *maps)
        mlflow_run.mark_finished(digest(metrics))


def write_sheets(
    params: Params, truth: AnnotationSet, errors: dict[int, ImageErrors], thresholds: Sequence[float], report: Path
) -> list[Group]:
    """Writes the contact sheets; returns the worst images of each kind."""
    with atomic_replace(report) as folder:
        return failure_sheets.write(
            folder,
            truth,
            errors,
            workspace() / "data/raw" / params.dataset,
            max_images=params.inspect.max_images,
            thresholds=thresholds,
        )


def count_errors(errors: dict[int, ImageErrors]) -> dict[str, int]:
    """The number of detections of each kind, and of missed objects, in all images together."""
    kinds = Counter(verdict.kind for image in errors.values() for verdict in image.verdicts)
    missed = sum(len(image.missed) for image in errors.values())
    return {kind: kinds[kind] for kind in error_kinds.KINDS} | {"missed": missed}


def map_embeddings(
    params: Params, truth: AnnotationSet, found: Sequence[Detection], errors: dict[int, ImageErrors]
) -> tuple[NeighborVote, list[Path]]:
    """Writes the maps of the split's embeddings; returns the vote of nearest neighbors, the picture and the page."""
    home, method = workspace(), params.inspect.embeddings
    embeddings = Embeddings.read(home / f"predictions/embeddings_{params.inspect.split}.npz")
    wrong = {verdict.detection for image in errors.values() for verdict in image.verdicts if verdict.kind != "correct"}
    # A correct detection lies where its object does.
    drawn = embeddings.of_detections(row for row, detection in enumerate(found) if detection in wrong)
    vote = vote_of_neighbors(embeddings, truth, params.seed)
    embedding_map = embedding_maps.make_map(drawn, method, params.seed)
    points = embedding_plots.collect_points(embedding_map, truth, found, errors)
    embedding_map.write(home / "reports/embeddings.npz")
    picture, page = home / "reports/embeddings.png", home / "reports/embeddings.html"
    names = [category.name for category in truth.categories]
    embedding_plots.write_picture(points, names, vote.describe(), picture)
    embedding_plots.write_page(
        points, embedding_map, truth, errors, home / "data/raw" / params.dataset, page, vote.describe()
    )
    return vote, [picture, page]


def vote_of_neighbors(embeddings: Embeddings, truth: AnnotationSet, seed: int) -> NeighborVote:
    """How well the nearest objects of other images tell the class of an object; difficult ones are left out."""
    objects = {item.id: item for item in truth.objects if not item.difficult}
    chosen = embeddings.of_annotations(objects)
    items = [objects[number] for number in chosen.annotation_ids.tolist()]
    return embedding_maps.vote(
        chosen.annotations, [item.category_id for item in items], [item.image_id for item in items], seed
    )


if __name__ == "__main__":
    with process.quick_exit():
        run_stage("inspect", run)
