"""FiftyOne's datasets and App, without importing FiftyOne: a child process does, `fiftyone_dataset`."""

import filecmp
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from pipeline.analysis import cross_check_files, suggestion_files
from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError
from pipeline.evaluation import ground_truth
from pipeline.files import atomic_replace, read_json
from pipeline.inference.score_thresholds import thresholds_of_predictions
from pipeline.integrations import dvc, mongo, servers
from pipeline.params import Params
from pipeline.workspace import root, state_dir, workspace

ERROR_STATUS = 3  # exit status of the child process after a PipelineError
_METRICS = {"val": "metrics/evaluate.json", "test": "metrics/test.json"}
_MAX_NAME = 80  # characters of a dataset's name; FiftyOne's limit is 100
# What the App opens with: a saved view and a saved workspace, by their names in addresses.
_OPENING = "?view=operating-point&workspace=inspect"


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """An experiment's detections, and the dataset that they are shown in. Paths are absolute."""

    name: str  # of the dataset
    experiment: str | None  # None: the workspace
    owns_truth: bool  # whether the dataset follows if the ground truth differs: not from a temporary workspace
    show: bool  # whether the saved views and the App show this experiment
    split: str
    annotations: str
    predictions: str
    images: str  # folder that outlives the workspace, since FiftyOne stores its path
    score_thresholds: list[float]  # lowest score of a detection of each category, in the order of the categories
    iou_threshold: float
    metrics: dict[str, float]  # of the evaluate stage, for FiftyOne's Model Evaluation panel
    extras: dict[str, str]  # files that may not exist: map and embeddings, label_errors


def dataset_spec(params: Params, split: str | None = None) -> DatasetSpec:
    """The detections of this workspace, and of DVC's experiment if one is running, in the dataset of the data set.

    Args:
        split: another one than `inspect.split`, with a dataset of its own. The detections in train are those of
            `fcos cross-check`, since the project's detector has learned these labels.

    Raises:
        PipelineError: a file is missing, or the labels have changed since the cross-check.
    """
    other = split not in {None, params.inspect.split}
    split = split or params.inspect.split
    experiment, owner = os.environ.get("DVC_EXP_NAME"), workspace().resolve() == root()
    files = _files(split)
    truth = annotations.read(files[0])
    images = _permanent_images(params.dataset, truth, dataset_name(f"fcos-{params.dataset}-{experiment}"))
    shared = images == root() / "data/raw" / params.dataset
    ending = (f"-{split}" if other else "") + ("" if shared else f"-{experiment}")
    return DatasetSpec(
        name=dataset_name(f"fcos-{params.dataset}{ending}"),
        experiment=experiment,
        owns_truth=owner or not shared,
        show=experiment is None,
        split=split,
        annotations=str(files[0]),
        predictions=str(files[1]),
        images=str(images),
        score_thresholds=thresholds_of_predictions(
            workspace(), [category.name for category in truth.categories], params.inspect.score_threshold
        ),
        iou_threshold=params.inspect.iou_threshold,
        extras=_extras(split, has_map=not other) if experiment is None else {},
        metrics={} if split == "train" else _metrics(workspace() / _METRICS[split]),
    )


def _files(split: str) -> tuple[Path, Path]:
    """The labels of a split and the detections in it.

    Raises:
        PipelineError: one of them is missing, or the labels have changed since the cross-check.
    """
    home, remedy = workspace(), "run `dvc repro`"
    files = home / f"data/unified/{split}.json", home / f"predictions/{split}.json"
    if split == "train":
        files, remedy = (files[0], cross_check_files.detections_file(home, split)), "run `fcos cross-check`"
        if files[1].is_file() and not cross_check_files.are_current(home):
            raise PipelineError(f"{files[1]}: the labels in data/unified have changed since; {remedy} again")
    elif split == "test":
        remedy += " (data sets without objects in a test split have none: -S inspect.split=val)"
    for file in files:
        if not file.is_file():
            raise PipelineError(f"{file}: not there yet; {remedy}")
    return files


def _extras(split: str, *, has_map: bool) -> dict[str, str]:
    """Label errors are left out if the labels have changed since: their ids are those of other labels."""
    home, extras = workspace(), {}
    if has_map:
        extras["map"] = str(home / "reports/embeddings.npz")
        extras["embeddings"] = str(home / f"predictions/embeddings_{split}.npz")
    if cross_check_files.are_current(home):
        extras["label_errors"] = str(home / "reports/label_errors.json")
    return extras


@contextmanager
def experiment_spec(params: Params, name: str, reference: DatasetSpec) -> Iterator[DatasetSpec]:
    """The detections of an experiment of DVC, a git revision or an MLflow run, from DVC's cache.

    Args:
        reference: the workspace, in whose dataset they are shown.

    Raises:
        PipelineError: the experiment doesn't exist, its files are gone, or its ground truth is another.
    """
    from pipeline.integrations import experiments  # imports torch, which the child processes do without

    split = reference.split
    with experiments.open_files(name) as find:
        truth = annotations.read(find(f"data/unified/{split}.json"))
        if difference := ground_truth.difference(annotations.read(Path(reference.annotations)), truth):
            raise PipelineError(f"{name} was not evaluated on the ground truth of the workspace: {difference}")
        names = [category.name for category in truth.categories]
        project = find("predictions/operating_point.json").parent.parent
        yield replace(
            reference,
            experiment=name,
            owns_truth=False,
            show=False,
            predictions=str(find(f"predictions/{split}.json")),
            score_thresholds=thresholds_of_predictions(project, names, params.inspect.score_threshold),
            metrics=_metrics(find(_METRICS[split])),
        )


def _metrics(file: Path) -> dict[str, float]:
    """COCO's AP and AP50; empty if they are not known."""
    values = read_json(file).get("coco", {}) if file.is_file() else {}
    return {name: values[name] for name in ("AP", "AP50") if values.get(name) is not None}


def dataset_name(name: str) -> str:
    """The name of a dataset: ASCII letters, digits and hyphens.

    FiftyOne limits the length, and refuses a name that differs from that of another dataset only in other characters,
    such as `o'brien` from `obrien`. A hash keeps such names apart.
    """
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) <= _MAX_NAME:
        return name
    plain = re.sub("[^a-z0-9]+", "-", name.lower())[:_MAX_NAME].strip("-")
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _permanent_images(dataset: str, split: AnnotationSet, name: str) -> Path:
    """A folder with the split's images that outlives a temporary workspace.

    It is data/raw of the main repository if the images are the same there, otherwise copies in `.fcos/images/`.
    """
    current, permanent = workspace() / "data/raw" / dataset, root() / "data/raw" / dataset
    files = [image.file_name for image in split.images]
    if current.resolve() == permanent.resolve() or all(_equal(current / file, permanent / file) for file in files):
        return permanent
    copies = state_dir() / "images" / name
    with atomic_replace(copies) as folder:
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(current / file, folder / file)
    return copies


def _equal(a: Path, b: Path) -> bool:
    return b.is_file() and filecmp.cmp(a, b, shallow=False)


def refresh(spec: DatasetSpec, others: Sequence[DatasetSpec] = ()) -> dict[str, Any]:
    """Brings the dataset up to date: what has changed is written, everything else stays as it is.

    Args:
        others: experiments to bring up to date as well.

    Returns:
        The number of images or patches in each view of `spec`: see `fiftyone_views.refresh`.

    Raises:
        PipelineError: there is no database, or an input is invalid.
    """
    specs = [asdict(item) for item in (spec, *others)]
    counts: dict[str, Any] = run_child("pipeline.integrations.fiftyone_dataset", spec.name, specs)
    return counts


def prune(params: Params) -> list[str]:
    """Removes the experiments that DVC no longer has from the dataset of the data set; returns their names.

    Raises:
        PipelineError: git can't list them, or there is no database.
    """
    if not dvc.git("rev-parse", "--git-dir"):
        raise PipelineError(f"{workspace()}: no git repository, so DVC's experiments are unknown")
    name = dataset_name(f"fcos-{params.dataset}")
    names = [name, *(dataset_name(f"fcos-{params.dataset}-{split}") for split in _METRICS)]
    spec = {"names": names, "keep": sorted(dvc.experiment_names())}
    removed: list[str] = run_child("pipeline.integrations.fiftyone_prune", name, spec)
    return removed


def run_child(module: str, name: str, spec: Any) -> Any:
    """Runs a module that imports FiftyOne; it reads the specification of a dataset and prints its result, both as JSON.

    Raises:
        PipelineError: as for `refresh`.
    """
    with (
        mongo.server() as uri,
        FileLock(state_dir() / "fiftyone.lock"),
        servers.supervised(
            [sys.executable, "-m", module],
            mongo.fiftyone_environment(uri),
            cwd=Path(__file__).resolve().parents[2],  # this code, also in a temporary workspace
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child,
    ):
        output, messages = child.communicate(json.dumps(spec))
    if child.returncode:
        lines = messages.strip().splitlines() or ["no output"]
        raise PipelineError(lines[-1] if child.returncode == ERROR_STATUS else f"FiftyOne, dataset {name}: {lines[-1]}")
    return json.loads(output)


@contextmanager
def app(params: Params, names: Sequence[str], port: int, *, split: str | None = None) -> Iterator[servers.Server]:
    """Runs FiftyOne's App on 127.0.0.1 with an up-to-date dataset; yields it once it responds.

    Args:
        names: of experiments to show beside the workspace and those that the dataset has already.
        split: see `dataset_spec`.

    Raises:
        PipelineError: the port is in use, or `refresh` or `experiment_spec` fails.
    """
    spec = dataset_spec(params, split)

    def build() -> None:
        with ExitStack() as stack:
            refresh(spec, [stack.enter_context(experiment_spec(params, name, spec)) for name in names])

    with serve(spec.name, port, build, query=_OPENING) as server:
        yield server


@contextmanager
def suggestions_app(params: Params, folder: Path, port: int) -> Iterator[servers.Server]:
    """Runs FiftyOne's App on 127.0.0.1 with the images that `fcos suggest` has chosen; yields it once it responds.

    Args:
        folder: what `fcos suggest --out` has written.

    Raises:
        PipelineError: the port is in use, or the folder's list is missing, is invalid, or names a missing image.
    """
    file = folder.absolute() / suggestion_files.NAME
    suggestion_files.read(file)  # before the seconds that the database takes
    folder_digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:8]  # each folder has tags of its own
    name = dataset_name(f"suggested-{params.dataset}-{folder_digest}")
    spec = {"name": name, "file": str(file)}
    with serve(name, port, lambda: run_child("pipeline.integrations.fiftyone_suggestions", name, spec)) as server:
        yield server


@contextmanager
def serve(name: str, port: int, build: Callable[[], object], *, query: str = "") -> Iterator[servers.Server]:
    """Builds a dataset, then runs FiftyOne's App on 127.0.0.1; yields it once it responds with the dataset's page.

    Args:
        query: what the page opens with, such as `?view=NAME`.

    Raises:
        PipelineError: the port is in use, or `build` fails.
    """
    servers.require_free_port(port)  # before the seconds that the dataset takes
    with mongo.server() as uri:
        build()
        with servers.run_server(
            "FiftyOne",
            "pipeline.integrations.fiftyone_server:server_app",
            port,
            page=f"/datasets/{quote(name)}{query}",
            environment=mongo.fiftyone_environment(uri) | {"FIFTYONE_SERVER": "1"},
        ) as server:
            yield server
