"""The evaluate stage: models/ and data/unified → predictions/, metrics/evaluate.json and plots/evaluate."""

import sys
from typing import Any

from tqdm import tqdm

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.evaluation import operating_point, report, tables
from pipeline.evaluation.plot_tables import plot_tables
from pipeline.files import digest, write_json
from pipeline.inference.detect import detect_split
from pipeline.inference.device import choose_device
from pipeline.inference.postprocess import make_postprocess
from pipeline.inference.saved_detector import SavedDetector
from pipeline.integrations import mlflow
from pipeline.params import Params
from pipeline.runner import run_stage
from pipeline.visualization.evaluation_plots import write_plots
from pipeline.workspace import workspace


def run(params: Params) -> None:
    """Detects objects in every image of a split, then writes detections, metrics and plots, and logs to MLflow."""
    project, name = workspace(), params.evaluate.split
    split_path = project / f"data/unified/{name}.json"
    if not split_path.is_file():
        raise PipelineError(
            f"params.yaml: evaluate.split is {name}, but {split_path} is missing; use -S evaluate.split=val"
        )
    split = annotations.read(split_path)
    weights = project / "models/detector.safetensors"
    model = SavedDetector.load(weights, choose_device(params.machine.device))
    model.check_classes(split, split_path)
    weights_digest, predictions = digest(weights), project / f"predictions/{name}.json"
    results.write(detect(params, model, split), predictions)
    # Read again, so that the scores are those of the file, as `fcos evaluate` computes them.
    detections = results.read(predictions, split)
    found = report.evaluate(split, detections)
    chosen_for = {"weights": weights_digest, "split": name, "iou_threshold": operating_point.IOU}
    write_json(project / "predictions/operating_point.json", chosen_for | found.operating_points.to_json())
    write_json(project / "metrics/evaluate.json", found.metrics)
    pictures = write_plots(plot_tables(split, detections, found), project / "plots/evaluate")
    with mlflow.evaluate_run(params, weights_digest) as mlflow_run:
        mlflow_run.log_metrics(mlflow_metrics(found.metrics), step=0)
        mlflow_run.log_artifacts(project / "metrics/evaluate.json", *pictures)
        mlflow_run.mark_finished(digest(predictions))
    print(tables.metric_table(found.metrics, "coco"))  # noqa: T201


def detect(params: Params, model: SavedDetector, split: AnnotationSet) -> list[Detection]:
    """Detections in every image of the split, with a progress bar."""
    with tqdm(total=len(split.images), unit="image", desc="evaluate", disable=not sys.stderr.isatty()) as bar:
        return list(
            detect_split(
                model.detector,
                split,
                workspace() / "data/raw" / params.dataset,
                input_size=model.description.input_size,
                postprocess=make_postprocess(params.postprocess),
                batch_size=params.evaluate.batch_size,
                progress=bar.update,
            )
        )


def mlflow_metrics(scores: dict[str, Any]) -> dict[str, float]:
    """The metrics by their names in MLflow, such as `coco/AP50`, without those that have no value."""
    groups = {group: scores[group] for group in ("coco", "voc", "operating_point")}
    groups["errors"] = {kind: error["AP50_cost"] for kind, error in scores["errors"].items()}
    groups["intervals"] = {
        f"{name}_{bound}": value for name, found in scores["intervals"].items() for bound, value in found.items()
    }
    groups["calibration"] = {"error": scores["calibration_error"]}
    return {
        f"{group}/{name}": value
        for group, values in groups.items()
        for name, value in values.items()
        if value is not None
    }


if __name__ == "__main__":
    run_stage("evaluate", run)
