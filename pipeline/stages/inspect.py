"""Shows the detector's errors: contact sheets of the worst cases, and a FiftyOne dataset for browsing.

Reads data/unified/<split>.json, predictions/, the digest of the detector and data/raw/<dataset>/.
Writes reports/failures/ and metrics/inspect.json, fills the FiftyOne dataset, and adds to the experiment's MLflow run.
"""

from collections import Counter
from typing import Any

from pipeline.data import annotations, detections
from pipeline.evaluation import error_kinds
from pipeline.evaluation.error_kinds import ImageErrors
from pipeline.files import atomic_replace, digest, write_json
from pipeline.inference.score_thresholds import thresholds_of_predictions
from pipeline.integrations import fiftyone, mlflow
from pipeline.params import Params
from pipeline.runner import run_stage
from pipeline.visualization import failure_sheets
from pipeline.workspace import workspace


def run(params: Params) -> None:
    split, home = f"{params.inspect.split}.json", workspace()
    dataset = fiftyone.dataset_spec(params)  # first, since it raises an error if a file is missing
    truth = annotations.read(home / "data/unified" / split)
    names = [category.name for category in truth.categories]
    thresholds = thresholds_of_predictions(home, names, params.inspect.score_threshold)
    errors = error_kinds.analyze(
        truth,
        detections.read(home / "predictions" / split, truth),
        score_threshold={category.id: score for category, score in zip(truth.categories, thresholds, strict=True)},
        iou_threshold=params.inspect.iou_threshold,
    )
    report, metrics = home / "reports/failures", home / "metrics/inspect.json"
    with atomic_replace(report) as folder:
        failure_sheets.write(
            folder,
            truth,
            errors,
            home / "data/raw" / params.dataset,
            max_images=params.inspect.max_images,
            thresholds=thresholds,
        )
    counts: dict[str, Any] = {"errors": count_errors(errors)}
    if params.inspect.fiftyone:
        counts |= fiftyone.refresh(dataset)
    write_json(metrics, counts)
    # The evaluate stage tags its run with the digest of these detections, whichever split is shown here.
    with mlflow.inspect_run(params, digest(home / "predictions/val.json")) as mlflow_run:
        mlflow_run.log_metrics(
            {
                f"inspect/{group}/{name}": number
                for group in ("errors", "views")
                for name, number in counts.get(group, {}).items()
            }
        )
        mlflow_run.log_artifacts(report)
        mlflow_run.mark_finished(digest(metrics))


def count_errors(errors: dict[int, ImageErrors]) -> dict[str, int]:
    """The number of detections of each kind, and of missed objects, in all images together."""
    kinds = Counter(verdict.kind for image in errors.values() for verdict in image.verdicts)
    missed = sum(len(image.missed) for image in errors.values())
    return {kind: kinds[kind] for kind in error_kinds.KINDS} | {"missed": missed}


if __name__ == "__main__":
    run_stage("inspect", run)
