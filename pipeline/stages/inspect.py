"""Shows the detector's errors: contact sheets of the worst cases, and a FiftyOne dataset for browsing.

Reads data/unified/<split>.json, predictions/<split>.json and data/raw/<dataset>/.
Writes reports/failures/ and metrics/inspect.json, fills the FiftyOne dataset, and adds to the experiment's MLflow run.
"""

from collections import Counter

from pipeline import runner
from pipeline.data import annotations, detections
from pipeline.evaluation import error_kinds
from pipeline.evaluation.error_kinds import ImageErrors
from pipeline.files import digest, replacing, write_json
from pipeline.integrations import fiftyone as viewer
from pipeline.integrations import mlflow as tracking
from pipeline.params import Params
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
    with replacing(report) as folder:
        failure_sheets.write(folder, truth, errors, home / "data/raw" / params.dataset, params.inspect.max_images)
    counts = {"errors": count_errors(errors), "views": viewer.refresh(viewer.source(params))}
    write_json(metrics, counts)
    with tracking.inspect(params, digest(predictions)) as tracked:
        tracked.metrics({f"inspect/{group}/{name}": n for group, found in counts.items() for name, n in found.items()})
        tracked.artifacts(report)
        tracked.finished(digest(metrics))


def count_errors(errors: dict[int, ImageErrors]) -> dict[str, int]:
    """The number of detections of each kind, and of missed objects, in all images together."""
    kinds = Counter(verdict.kind for image in errors.values() for verdict in image.verdicts)
    missed = sum(len(image.missed) for image in errors.values())
    return {kind: kinds[kind] for kind in error_kinds.KINDS} | {"missed": missed}


if __name__ == "__main__":
    runner.run("inspect", run)
