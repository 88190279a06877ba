"""A detector and unified data in, detections and scores out: `python -m pipeline.stages.evaluate`."""

import sys

from tqdm import tqdm

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.evaluation import report, tables, voc
from pipeline.files import digest, write_json
from pipeline.inference.detect import detect_split
from pipeline.inference.device import choose_device
from pipeline.inference.model import Model
from pipeline.inference.postprocess import make_postprocess
from pipeline.integrations import mlflow
from pipeline.params import Params
from pipeline.runner import run_stage
from pipeline.visualization import curves
from pipeline.workspace import workspace


def run(params: Params) -> None:
    """Detects in every image of the split, then writes detections, metrics and curves, and tells MLflow."""
    here, name = workspace(), params.evaluate.split
    source = here / f"data/unified/{name}.json"
    if not source.is_file():
        raise PipelineError(f"params.yaml: evaluate.split is {name}, but the data set has none: {source} is not there")
    split = annotations.read(source)
    weights = here / "models/detector.safetensors"
    model = Model.load(weights, choose_device(params.machine.device))
    model.check_classes(split, source)
    predictions = here / f"predictions/{name}.json"
    results.write(detect(params, model, split), predictions)
    # What is scored is what was written, rounding included: `fcos evaluate` on the file says the same.
    found = results.read(predictions, split)
    scores = report.evaluate(split, found)
    write_json(here / "metrics/evaluate.json", scores)
    table, picture = (here / f"plots/precision_recall.{kind}" for kind in ("csv", "png"))
    by_class = voc.evaluate(split, found)
    curves.write_precision_recall(by_class, table)
    curves.plot_precision_recall(by_class, picture)
    with mlflow.evaluate_run(params, digest(weights)) as mlflow_run:
        mlflow_run.log_metrics(logged(scores), step=0)
        mlflow_run.log_artifacts(here / "metrics/evaluate.json", table, picture)
        mlflow_run.mark_finished(digest(predictions))
    print(tables.metric_table(scores, "coco"))  # noqa: T201


def detect(params: Params, model: Model, split: AnnotationSet) -> list[Detection]:
    """Detections in every image, with a progress bar."""
    with tqdm(total=len(split.images), unit="image", desc="evaluate", disable=not sys.stderr.isatty()) as bar:
        found = detect_split(
            model.detector,
            split,
            workspace() / "data/raw" / params.dataset,
            input_size=model.description.input_size,
            postprocess=make_postprocess(params.postprocess),
            batch_size=params.evaluate.batch_size,
            progress=bar.update,
        )
        return list(found)


def logged(scores: dict[str, dict[str, float | None]]) -> dict[str, float]:
    """The metrics as MLflow has them: `coco/AP50`; what doesn't exist (no small objects, say) is left out."""
    groups = {group: scores[group] for group in ("coco", "voc")}
    return {
        f"{group}/{name}": value
        for group, values in groups.items()
        for name, value in values.items()
        if value is not None
    }


if __name__ == "__main__":
    run_stage("evaluate", run)
