"""The evaluate stage: models/ and data/unified → predictions/, metrics/, plots/evaluate and reports/model_card.md.

predictions/ has the detections and the embeddings of each split: see `pipeline.inference.embeddings`.
"""

from pipeline import process

if __name__ == "__main__":  # before the imports below, which take seconds
    process.postpone_collection()

import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import operating_point, report, tables
from pipeline.evaluation.embedding_files import Embeddings
from pipeline.evaluation.operating_point import OperatingPoints
from pipeline.evaluation.plot_tables import plot_tables
from pipeline.evaluation.report import Report
from pipeline.files import digest, write_json, write_text
from pipeline.inference.detect import detect_split
from pipeline.inference.device import prepare_device
from pipeline.inference.embeddings import SplitEmbedder
from pipeline.inference.postprocess import make_postprocess
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.views import Views, detect_in_views
from pipeline.integrations import mlflow
from pipeline.model_card import card, facts
from pipeline.model_card.files import CARD, FOLDER
from pipeline.params import Params
from pipeline.runner import run_stage
from pipeline.visualization.evaluation_plots import write_plots
from pipeline.workspace import workspace


def run(params: Params) -> None:
    """Detects objects in every image of val and test; writes detections, metrics, plots and card; logs to MLflow."""
    project = workspace()
    weights = project / "models/detector.safetensors"
    model = SavedDetector.load(weights, prepare_device(params.machine.device))
    weights_digest = digest(weights)
    val = score(params, model, "val")
    points = val.report.operating_points
    chosen_for = {
        "weights": weights_digest,
        "split": "val",
        "iou_threshold": operating_point.IOU,
        "views": asdict(Views.of(params.evaluate)),
        "postprocess": asdict(params.postprocess),
    }
    write_json(project / "predictions/operating_point.json", chosen_for | points.to_json())
    test = score(params, model, "test", points) if params.evaluate.test and has_objects("test") else None
    write_json(project / "metrics/evaluate.json", val.report.metrics)
    # DVC requires every output of a stage, also for data sets without a test split. An empty object adds no column.
    write_json(project / "metrics/test.json", test.report.metrics if test else {})
    plotted = plot_tables(val.truth, val.detections, val.report)
    pictures = write_plots(plotted, project / "plots/evaluate")
    found = facts.collect(
        project, params, model.description, val.report, test.report if test else None, confusion=plotted["confusion"]
    )
    write_text(project / FOLDER / CARD, card.render(found))
    with mlflow.evaluate_run(params, weights_digest) as mlflow_run:
        mlflow_run.log_evaluation(mlflow_metrics(val.report.metrics), weights_digest, "val", val.truth)
        if test:
            values = {f"test/{name}": value for name, value in mlflow_metrics(test.report.metrics).items()}
            mlflow_run.log_evaluation(values, weights_digest, "test", test.truth)
        files = ("metrics/evaluate.json", "metrics/test.json", f"{FOLDER}/{CARD}")
        mlflow_run.log_artifacts(*(project / name for name in files), *pictures)
        mlflow_run.mark_finished(digest(project / "predictions/val.json"))
    for title, scored in {"": val, "\nTest split:\n": test}.items():
        if scored:
            table = tables.metric_table(scored.report.metrics, "coco", sizes_of="the network input")
            print(title + table)  # noqa: T201


@dataclass(frozen=True)
class Scored:
    """A split with the detections in it and their metrics."""

    truth: AnnotationSet
    detections: tuple[Detection, ...]
    report: Report


def score(params: Params, model: SavedDetector, name: str, chosen: OperatingPoints | None = None) -> Scored:
    """Writes the detections in a split, and computes their metrics, at operating points chosen on another if given."""
    path, predictions = unified(name), workspace() / f"predictions/{name}.json"
    truth = annotations.read(path)
    model.check_classes(truth, path)
    detections, embeddings = detect(params, model, truth, name)
    results.write(detections, predictions)
    embeddings.write(workspace() / f"predictions/embeddings_{name}.npz")
    scores = report.evaluate(
        truth,
        detections,
        chosen=chosen,
        input_size=model.description.input_size,
        max_detections=params.postprocess.max_detections,
    )
    return Scored(truth, detections, scores)


def has_objects(name: str) -> bool:
    """Whether the data set has this split, with objects: without any, no metric has a value."""
    return unified(name).is_file() and bool(annotations.read(unified(name)).objects)


def unified(name: str) -> Path:
    return workspace() / f"data/unified/{name}.json"


def detect(
    params: Params, model: SavedDetector, split: AnnotationSet, name: str
) -> tuple[tuple[Detection, ...], Embeddings]:
    """Detections in every image of the split, with a progress bar, and embeddings from the same pass."""
    input_size, views, batch_size = model.description.input_size, Views.of(params.evaluate), params.evaluate.batch_size
    detect_batch = partial(
        detect_in_views,
        model.network,
        input_size=input_size,
        postprocess=make_postprocess(params.postprocess),
        views=views,
        batch_size=batch_size,
    )
    embedder = SplitEmbedder(model.network, split, views.input_sizes(input_size)[0], detect_batch)
    images = workspace() / "data/raw" / params.dataset
    with tqdm(total=len(split.images), unit="image", desc=f"evaluate {name}", disable=not sys.stderr.isatty()) as bar:
        found = tuple(detect_split(embedder, split, images, batch_size=batch_size, progress=bar.update))
    return found, embedder.embeddings()


def mlflow_metrics(scores: dict[str, Any]) -> dict[str, float]:
    """The metrics by their names in MLflow, such as `coco/AP50`, without those that have no value."""
    groups = {group: scores[group] for group in ("coco", "voc", "operating_point")}
    groups["errors"] = {kind: error["AP50_cost"] for kind, error in scores["errors"].items()}
    groups["intervals"] = {
        f"{name}_{bound}": value for name, found in scores["intervals"].items() for bound, value in found.items()
    }
    names = mlflow.metric_names(scores["per_class"])
    groups["per_class"] = {f"AP/{names[name]}": values["AP"] for name, values in scores["per_class"].items()}
    groups["AP_by_size"] = {size: values["AP"] for size, values in scores["by_size"].items()}
    groups["coco_raised_limit"] = scores["coco_raised_limit"] or {}
    groups["calibration"] = {"error": scores["calibration_error"]}
    return {
        f"{group}/{name}": value
        for group, values in groups.items()
        for name, value in values.items()
        if value is not None
    }


if __name__ == "__main__":
    with process.quick_exit():
        run_stage("evaluate", run)
