"""MLflow's registry of models: a detector with its operating point, metrics and data, under a name and an alias."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError
from pipeline.files import digest, read_json
from pipeline.inference.postprocess import make_postprocess
from pipeline.integrations import mlflow_model, mlflow_sender, mlflow_store
from pipeline.integrations.mlflow_datasets import Dataset
from pipeline.integrations.mlflow_images import ValidationImages
from pipeline.integrations.mlflow_model import ModelFiles
from pipeline.integrations.mlflow_store import Store, one_line_errors
from pipeline.model_card.files import find_card
from pipeline.params import Params
from pipeline.workspace import workspace

_MISSING = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_LINKED = ("coco/", "operating_point/", "val/")  # metrics that the registered model has


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: str
    alias: str


@dataclass(frozen=True)
class _Evaluated:
    """The detector in models/ with its evaluation."""

    weights: Path
    predictions: Path
    operating_point: Path
    metrics: Mapping[str, Any]
    split: AnnotationSet
    dataset: Dataset


def register(params: Params, name: str, alias: str) -> Registered:
    """Registers the evaluated detector in models/ as the next version of a model, and gives it the alias.

    The version is a model of its own, with the operating point and the post-processing of params.yaml, so that a later
    evaluation doesn't change it.

    Raises:
        PipelineError: the detector has not been evaluated, or MLflow can't be reached or refuses the name.
    """
    server = mlflow_store.destination()
    evaluated = _read(params)
    store = Store.open(server)
    with mlflow_sender.turn():
        mlflow_sender.send_abandoned(store, server)
    with one_line_errors(f"registering {name}", server):
        run = _find_run(store, evaluated)
        model = store.log_model(_files(params, evaluated), name, run)
        if run:
            _link_metrics(store, run, model, evaluated.dataset)
        version = _create_version(store, name, model, run, _describe(params, evaluated))
        link = json.dumps([{"name": name, "version": int(version)}])
        store.client.set_logged_model_tags(model, {"mlflow.modelVersions": link})  # for MLflow's page
        store.client.set_registered_model_alias(name, alias, version)
    return Registered(name, version, alias)


def download(model: str, folder: Path) -> Path:
    """Downloads a registered detector, and returns the folder with `mlflow_model.FILES`.

    Args:
        model: its address, such as models:/NAME@ALIAS.
        folder: is created.

    Raises:
        PipelineError: there is no such model, it is no detector of this project, or MLflow can't be reached.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    server = mlflow_store.destination()
    client = Store.open(server).client
    addresses = {"tracking_uri": client.tracking_uri, "registry_uri": client._registry_uri}
    with one_line_errors(f"loading {model}", server):
        try:
            downloaded = Path(download_artifacts(model, dst_path=str(folder), **addresses))
        except MlflowException as error:
            if error.error_code not in _MISSING:
                raise
            reason = str(error).partition("\n")[0].rstrip(".")
            raise PipelineError(f"{model}: {reason}; `fcos register` registers the evaluated detector") from None
    files = downloaded / "artifacts"
    if not all((files / name).is_file() for name in (mlflow_model.WEIGHTS, mlflow_model.DESCRIPTION)):
        raise PipelineError(f"{model}: not a detector of this project, as `fcos register` makes them")
    return files


def _read(params: Params) -> _Evaluated:
    project = workspace()
    weights, points = project / "models/detector.safetensors", project / "predictions/operating_point.json"
    truth, predictions = project / "data/unified/val.json", project / "predictions/val.json"
    for path in (weights, points, truth, predictions):
        if not path.is_file():
            raise PipelineError(f"{path}: no such file; run `dvc repro`")
    if read_json(points).get("weights") != digest(weights):
        raise PipelineError(f"{points}: it was chosen for other weights than {weights}; run `dvc repro`")
    metrics, annotated = read_json(project / "metrics/evaluate.json"), annotations.read(truth)
    dataset = Dataset.of(params.dataset, "val", annotated, truth.parent)
    return _Evaluated(weights, predictions, points, metrics, annotated, dataset)


def _files(params: Params, evaluated: _Evaluated) -> ModelFiles:
    example = None
    with suppress(PipelineError):  # the images may be on another machine
        example = ValidationImages(evaluated.split, workspace() / "data/raw" / params.dataset).example()
    return ModelFiles(
        evaluated.weights,
        tags={"predictions": digest(evaluated.predictions)},
        params={"backbone": params.model.backbone},
        postprocess=make_postprocess(params.postprocess),
        operating_point=evaluated.operating_point,
        model_card=find_card(evaluated.weights),
        example=example,
    )


def _find_run(store: Store, evaluated: _Evaluated) -> str | None:
    """The run that evaluated the detector, or the one that trained it."""
    predictions = store.find_run({"predictions": digest(evaluated.predictions)}, without="evaluated_by")
    return predictions or store.find_run({"weights": digest(evaluated.weights)})


def _link_metrics(store: Store, run: str, model: str, dataset: Dataset) -> None:
    from mlflow.entities import Metric

    names = [name for name in store.client.get_run(run).data.metrics if name.startswith(_LINKED)]
    points = [store.client.get_metric_history(run, name)[-1] for name in names]
    # With the same time and step, the run's own metrics stay as they are.
    metrics = [
        Metric(point.key, point.value, point.timestamp, point.step, model, dataset.name, dataset.digest)
        for point in points
    ]
    store.client.log_batch(run, metrics=metrics)


def _create_version(store: Store, name: str, model: str, run: str | None, description: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        store.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        store.client.create_registered_model(name)
    version = store.client.create_model_version(
        name, f"models:/{model}", run_id=run, model_id=model, description=description, await_creation_for=0
    )
    return str(version.version)


def _describe(params: Params, evaluated: _Evaluated) -> str:
    """Metrics and data, in Markdown."""
    metrics, dataset = evaluated.metrics, evaluated.dataset
    intervals, point = metrics["intervals"], metrics["operating_point"]
    rows = [
        (name, metrics["coco"][name], f"{_number(intervals[name]['low'])} to {_number(intervals[name]['high'])}")
        for name in ("AP", "AP50")
    ] + [(f"{name} at the operating point", point[name], "") for name in ("precision", "recall")]
    table = [f"| {name} | {_number(value)} | {interval} |" for name, value, interval in rows]
    return "\n".join(
        [
            f"FCOS, {params.model.backbone}, trained on {params.dataset}.",
            "",
            f"| on {dataset.name} | | 95 % interval |",
            "|---|---|---|",
            *table,
            "",
            f"Data: {dataset.digest} (DVC), {dataset.name}: {metrics['images']} images, {metrics['objects']} objects.",
            "",
            f"Weights: {digest(evaluated.weights)} (SHA-256).",
        ]
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
