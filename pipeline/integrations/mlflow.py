"""Logs an experiment to MLflow: one run for train, evaluate and inspect.

The stages write operations into a queue on disk, which a thread sends (`mlflow_queue`, `mlflow_sender`), to the
project's own store (`mlflow_database`) or to the server that MLFLOW_TRACKING_URI names. The own store is under the main
repository's root and serves `dvc repro`, `dvc exp run` and its temporary workspaces. A stage finds the run to continue
by the digest of its input file. A run id in a stage's output would make equal outputs differ.
"""

import getpass
import io
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import PIL.Image

from pipeline.data.annotations import AnnotationSet
from pipeline.digests import dvc_hash
from pipeline.errors import PipelineError
from pipeline.integrations import mlflow_experiments, mlflow_queue, mlflow_sender, mlflow_store, mlflow_view
from pipeline.integrations.mlflow_datasets import Dataset
from pipeline.integrations.mlflow_errors import without_password
from pipeline.integrations.mlflow_model import ModelFiles
from pipeline.integrations.mlflow_queue import Entry
from pipeline.integrations.mlflow_sender import Sender
from pipeline.integrations.mlflow_store import Store
from pipeline.integrations.mlflow_system import system_metrics
from pipeline.params import Params
from pipeline.workspace import workspace

EVALUATE_SECTIONS = ("evaluate.", "postprocess.")  # parameters that the evaluate stage logs
LATER_SECTIONS = (*EVALUATE_SECTIONS, "inspect.")  # parameters that training doesn't depend on
# These parameters may change when an interrupted training continues, and MLflow refuses to change a parameter: tags.
MACHINE_SECTION = "machine."
_INVALID = re.compile(r"[^\w.\- ]")  # characters that MLflow has in no name; a slash separates groups
KILLED_SECONDS = 5.0  # that a stage that was stopped waits for a server
# Half the time of Pillow's own settings, for files that are 2 to 5 % larger.
_EFFORT: dict[str, dict[str, int]] = {"PNG": {"compress_level": 4}, "WEBP": {"method": 2}}
_THUMBNAIL = 256  # pixels of an image in MLflow's grid; the whole image is shown on a click


def metric_names(classes: Iterable[str]) -> dict[str, str]:
    """A distinct name for each class as a part of a metric's name, without characters that MLflow doesn't accept."""
    names: dict[str, str] = {}
    for name in classes:
        valid = _INVALID.sub("_", name).strip(". ") or "_"
        numbered = (f"{valid}-{number}" for number in count(2))
        names[name] = next(item for item in chain([valid], numbered) if item not in names.values())
    return names


def _encoded(image: PIL.Image.Image, format: str) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **_EFFORT[format])
    return content.getvalue()


@dataclass
class Run:
    """A run of this process. Errors are raised at its end only, so that they don't stop a long training."""

    params: Params
    entry: Entry
    sender: Sender
    done_tag: str
    errors: list[str] = field(default_factory=list)
    _times: dict[tuple[str, int], int] = field(default_factory=dict)  # of the metrics at each step
    _val: Dataset | None = None  # of a training

    @property
    def id(self) -> str:
        """The run's id in MLflow; empty before MLflow knows the run."""
        return self.sender.run

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Logs the metrics of several steps. Each row has the key "step"; its other keys are names of metrics."""
        values = [(name, value, int(row["step"])) for row in rows for name, value in row.items() if name != "step"]
        now = _milliseconds()
        self._append("metrics", points=[(name, float(value), now, step) for name, value, step in values])

    def log_metrics(
        self, values: Mapping[str, float], step: int = 0, *, weights: str = "", dataset: Dataset | None = None
    ) -> None:
        """Logs metrics of one step.

        Args:
            weights: digest of the weights that they measure; they are linked to the model with these weights.
            dataset: the data that they were measured on.
        """
        now = _milliseconds()
        # A metric of a step keeps its time when it is linked to a model later, so that MLflow shows it once.
        times = [self._times.setdefault((name, step), now) for name in values]
        points = [(name, float(value), time, step) for (name, value), time in zip(values.items(), times, strict=True)]
        link: dict[str, Any] = {"weights": weights} if weights else {}
        if dataset:
            link["dataset"] = [dataset.name, dataset.digest]
        self._append("metrics", points=points, **link)

    def log_datasets(self, *, training: AnnotationSet, validation: AnnotationSet) -> None:
        """Logs the splits of a training as the run's data sets."""
        self._val = self._dataset("val", validation)
        inputs = [self._dataset("train", training).input("training"), self._val.input("validation")]
        self._append("datasets", datasets=inputs)

    def log_evaluation(self, values: Mapping[str, float], weights: str, split: str, annotations: AnnotationSet) -> None:
        """Logs the metrics of the weights with this digest on a split."""
        dataset = self._dataset(split, annotations)
        self._append("datasets", datasets=[dataset.input("evaluation")])
        self.log_metrics(values, weights=weights, dataset=dataset)

    def _dataset(self, split: str, annotations: AnnotationSet) -> Dataset:
        return Dataset.of(self.params.dataset, split, annotations, workspace() / "data/unified")

    def log_checkpoints(
        self, weights: Mapping[str, Path], rows: Mapping[str, Mapping[str, float]], example: bytes
    ) -> None:
        """Logs weights as models, each with the metrics of its validation. Equal weights are logged once.

        Args:
            weights: files by name; the first is the detector.
            rows: the validation of each: epoch, step and metrics.
            example: an encoded image.
        """
        logged = set()
        for name, path in weights.items():
            row = rows[name]
            params = {"weights": name, "epoch": f"{row['epoch']:g}", "backbone": self.params.model.backbone}
            model = ModelFiles(path, tags=_source("train"), params=params, example=example)
            if model.digest in logged:
                continue
            logged.add(model.digest)
            self._log_model(name, model, step=int(row["step"]))
            values = {f"val/{key}": value for key, value in row.items() if key not in ("epoch", "step")}
            self.log_metrics(values, int(row["step"]), weights=model.digest, dataset=self._val)

    def _log_model(self, name: str, model: ModelFiles, step: int) -> None:
        with self._deferred_errors(model.weights.name):
            files = self.entry.add_files(model.files())
            values = {"files": files, "weights": model.digest, "tags": model.tags, "params": model.params}
            self._append("model", what=f"model {name}", name=name, step=step, **values)

    def log_predictions(self, images: Sequence[PIL.Image.Image], epoch: int) -> None:
        """Logs images with detections, as `ValidationImages.draw` returns them; the epoch is their step in MLflow."""
        for key, image in zip(mlflow_view.IMAGE_KEYS, images, strict=False):
            self._log_image(key, image, epoch)

    def _log_image(self, key: str, image: PIL.Image.Image, step: int) -> None:
        """Logs an image of a step. MLflow's page lets a person go through the steps of all images with this key."""
        # The names of MlflowClient.log_image, which would compress and upload the image at once.
        key = "~".join(_INVALID.sub("_", part) for part in key.split("/"))
        name = f"{key}+step+{step}+timestamp+{_milliseconds()}+{uuid.uuid4()}"
        small = image.copy()
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        files = {f"{name}.png": _encoded(image, "PNG"), f"{name}+compressed.webp": _encoded(small, "WEBP")}
        with self._deferred_errors(key):
            folder = self.entry.add_files(files)
            for file in files:
                self._append("artifact", what=key, file=f"{folder}/{file}", folder="images")
        self._append("tags", tags={"mlflow.loggedImages": "True"})

    def log_artifacts(self, *paths: Path) -> None:
        """Copies files and whole folders into the run, under their own names."""
        for path in paths:
            with self._deferred_errors(path.name):
                folder = self.entry.add_files({path.name: path})
                self._append("artifact", what=path.name, file=f"{folder}/{path.name}")

    def mark_finished(self, digest: str) -> None:
        """Tags the run with the digest of the stage's result, by which the next stage finds it.

        The hash that DVC will give the output is how an experiment that DVC restores from its cache is found.
        """
        tags = {self.done_tag: digest}
        if (output := {"weights": "models", "predictions": "predictions"}.get(self.done_tag)) and (
            workspace() / output
        ).is_dir():
            tags[mlflow_experiments.OUTPUTS[output]] = dvc_hash(workspace() / output)
        self._append("tags", tags=tags)

    def _append(self, kind: str, **values: Any) -> None:
        with self._deferred_errors(kind):
            self.entry.append(kind, **values)

    @contextmanager
    def _deferred_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.errors.append(f"{error.filename or self.entry.path}: MLflow: {action}: {error.strerror}")


@dataclass(frozen=True)
class Origin:
    """The weights that a training starts from: the run that made them is named in a tag and in the description.

    Args:
        tag: gets the run's id.
        text: of the description, before the run's name.
        weights: digest of the weights.
    """

    tag: str
    text: str
    weights: str


@contextmanager
def train_run(
    params: Params, *, key: str, precision: str = "", resumed: bool = False, origin: Origin | None = None
) -> Iterator[Run]:
    """Opens a run, or continues the interrupted run with the same key.

    Args:
        key: identifies everything that determines the training, as the key of its resumable state does.
        precision: what train.precision means on this machine; a tag.
        resumed: whether the training continues from a saved state. Then a finished run is continued too: its stage
            failed afterwards, because an input had changed.
        origin: the weights that training starts from, if those of another run.

    Raises:
        PipelineError: the project's own store can't be opened, or something couldn't be logged (raised at the end).
    """
    values = {name: value for name, value in _experiment_params(params).items() if not name.startswith(LATER_SECTIONS)}
    machine = {name: str(value) for name, value in params.flat().items() if name.startswith(MACHINE_SECTION)}
    tags = {**_tags(params, "train"), **machine, "key": key} | ({"precision": precision} if precision else {})
    search = {"tags": {"key": key}, "without": None if resumed else "weights", "params": values}
    continued = {"tags": tags, "params": values}
    opening: dict[str, Any] = {"tags": tags, "params": values, "search": search, "continued": continued}
    if origin:
        made_by = {"tags": {"weights": origin.weights}}
        opening["origin"] = {"tag": origin.tag, "text": origin.text, "search": made_by}
    with _open("train", params, opening, done_tag="weights") as run, system_metrics(run.log_metrics):
        yield run


@contextmanager
def evaluate_run(params: Params, weights: str) -> Iterator[Run]:
    """Continues the run that trained the weights with this digest, unless it has been evaluated already.

    If DVC restored the weights from its cache, continuing could overwrite the metrics of another experiment. Then a new
    run is opened, whose tag `trained_by` and description name the run that trained.

    Raises:
        PipelineError: as for `train_run`.
    """
    origin = {"tag": "trained_by", "text": "The weights are those of"}
    with _later_stage_run("evaluate", params, EVALUATE_SECTIONS, ("weights", weights), "predictions", origin) as run:
        yield run


@contextmanager
def inspect_run(params: Params, predictions: str) -> Iterator[Run]:
    """Continues the run that made the predictions with this digest, or opens one with the tag `evaluated_by`.

    Raises:
        PipelineError: as for `train_run`.
    """
    origin = {"tag": "evaluated_by", "text": "The detections are those of"}
    with _later_stage_run("inspect", params, ("inspect.",), ("predictions", predictions), "inspected", origin) as run:
        yield run


@contextmanager
def _later_stage_run(
    stage: str,
    params: Params,
    sections: tuple[str, ...],
    input_tag: tuple[str, str],
    done_tag: str,
    origin: dict[str, str],
) -> Iterator[Run]:
    """Continues the run with the input's tag and of the same experiment, or opens one that names it in a tag."""
    values, tags = _experiment_params(params), _tags(params, stage)
    stage_values = {name: value for name, value in values.items() if name.startswith(sections)}
    wanted = dict([input_tag], dvc_experiment=tags["dvc_experiment"])
    opening = {
        "tags": tags | dict([input_tag]),
        "params": values,
        "search": {"tags": wanted, "without": done_tag, "params": stage_values},
        "continued": {"tags": {}, "params": stage_values},
        "origin": {**origin, "search": {"tags": dict([input_tag]), "without": origin["tag"]}},
    }
    with _open(stage, params, opening, done_tag=done_tag) as run:
        yield run


@contextmanager
def _open(stage: str, params: Params, opening: dict[str, Any], *, done_tag: str) -> Iterator[Run]:
    """Opens a run, and ends it with its status: finished, failed or killed."""
    server = mlflow_store.destination()
    store = None if server else Store.open()  # an error before a long training, not after it
    mlflow_store.import_mlflow()  # before loader processes are forked: a thread that imports may hold a lock then
    entry = Entry.create(stage, server)
    entry.append("open", what="opening the run", name=_run_name(params), time=_milliseconds(), **opening)
    run, status = Run(params, entry, Sender(entry, server, store), done_tag), "FAILED"
    try:
        yield run
        status = "FINISHED" if not run.errors else "FAILED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        run._append("end", status=status, time=_milliseconds())
        run.sender.finish(KILLED_SECONDS if server and status == "KILLED" else mlflow_sender.END_SECONDS)
    if errors := run.errors + run.sender.refused:
        raise PipelineError(errors[0])


def _milliseconds() -> int:
    return int(time.time() * 1000)


def _experiment_params(params: Params) -> dict[str, str]:
    """The parameters that determine the result, by their dotted names."""
    return {name: str(value) for name, value in params.flat().items() if not name.startswith(MACHINE_SECTION)}


def _run_name(params: Params) -> str:
    return os.environ.get("DVC_EXP_NAME") or f"{params.dataset}-{params.model.backbone}-{params.loss}"


def _tags(params: Params, stage: str) -> dict[str, str]:
    experiment = os.environ.get("DVC_EXP_NAME", "")  # empty for `dvc repro`
    tags = {"dataset": params.dataset, "loss": params.loss, "dvc_experiment": experiment}
    return tags | _source(stage) | _revision()


def _source(stage: str) -> dict[str, str]:
    """MLflow's tags for what made a run or a model, and who."""
    tags = {"mlflow.source.name": f"pipeline/stages/{stage}.py", "mlflow.source.type": "LOCAL"}
    with suppress(OSError, KeyError):  # a user without a name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _revision() -> dict[str, str]:
    """Tags for the commit that an experiment started from, and whether tracked files differ from it."""
    baseline = os.environ.get("DVC_EXP_BASELINE_REV")
    revision = baseline or _git("rev-parse", "HEAD")
    if not revision:
        return {}  # not a git repository
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    tags = {"git_revision": revision, "git_dirty": str(dirty).lower(), "mlflow.source.git.commit": revision}
    return tags | ({"dvc_baseline": baseline} if baseline else {})


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=workspace(), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def prepare() -> None:
    """Creates the store if it is missing.

    Raises:
        PipelineError: the store can't be created or opened.
    """
    Store.open()


@dataclass(frozen=True)
class Sent:
    """What `sync` did."""

    stages: list[str]  # names of queue entries
    elsewhere: list[str]  # addresses of other servers that entries wait for; empty for the own store


def sync() -> Sent:
    """Sends what waits in the queue for the current store or server.

    Raises:
        PipelineError: something couldn't be sent.
    """
    server = mlflow_store.destination()
    store = Store.open(server)
    with mlflow_sender.turn():
        sent = mlflow_sender.send_abandoned(store, server)
    others = {entry.destination for entry in mlflow_queue.entries()} - {server}
    return Sent(sent, sorted(map(without_password, others)))
