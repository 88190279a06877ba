"""Shows the detector's errors: contact sheets of the worst cases, and a FiftyOne dataset for browsing.

Reads data/unified/<split>.json, predictions/<split>.json and data/raw/<dataset>/.
Writes reports/failures/ and metrics/inspect.json, fills the FiftyOne dataset, and adds to the experiment's MLflow run.
"""

from collections import Counter

from pipeline.data import annotations, detections
from pipeline.evaluation import error_kinds
from pipeline.evaluation.error_kinds import ImageErrors
from pipeline.files import atomic_replace, digest, write_json
from pipeline.integrations import fiftyone, mlflow
from pipeline.params import Params
from pipeline.runner import run_stage
from pipeline.visualization import failure_sheets
from pipeline.workspace import workspace


def run(params: Params) -> None:
    split, home = f"{params.evaluate.split}.json", workspace()
    predictions = home / "predictions" / split
    truth = annotations.read(home / "data/unified" / split)
    errors = error_kinds.analyze(
        truth,
        detections.read(predictions, truth),
        score_threshold=params.inspect.score_threshold,
        iou_threshold=params.inspect.iou_threshold,
    )
    report, metrics = home / "reports/failures", home / "metrics/inspect.json"
    with atomic_replace(report) as folder:
        failure_sheets.write(folder, truth, errors, home / "data/raw" / params.dataset, params.inspect.max_images)
    counts = {"errors": count_errors(errors), "views": fiftyone.refresh(fiftyone.dataset_spec(params))}
    write_json(metrics, counts)
    with mlflow.inspect_run(params, digest(predictions)) as mlflow_run:
        mlflow_run.log_metrics(
            {f"inspect/{group}/{name}": number for group, named in counts.items() for name, number in named.items()}
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
