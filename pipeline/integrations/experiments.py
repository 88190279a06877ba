"""Experiments by name: their parameters, ground truth and detections, as DVC has stored them. Nothing is run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.evaluation import ground_truth
from pipeline.evaluation.inputs import read_points
from pipeline.evaluation.operating_point import OperatingPoints
from pipeline.files import digest
from pipeline.integrations import dvc, mlflow_experiments
from pipeline.workspace import workspace
from pipeline.yaml_files import read_yaml

WORKSPACE = "workspace"
_STAGES = ("download", "convert", "train", "evaluate")  # whose parameters determine the detections

FindFile = Callable[[str], Path]  # by the path in the project


@dataclass(frozen=True, eq=False)
class Experiment:
    """Detections with the ground truth of their images."""

    name: str  # as given
    truth: AnnotationSet
    detections: Sequence[Detection]
    params: Mapping[str, Any]  # by dotted name; empty for a file of detections
    find_image: FindFile | None  # by the file name in `truth`; None if it is unknown where the images are
    chosen: OperatingPoints | None = None  # on other images than those of `truth`
    notes: Sequence[str] = ()  # what a person should know about the result


@contextmanager
def open_experiments(
    names: Sequence[str], *, truth_file: Path | None, split: str, images: Path | None
) -> Iterator[list[Experiment]]:
    """Finds the experiments and reads their files; all have the same ground truth.

    A name is `workspace`, a file of detections, DVC's experiment, a git revision, or the name or id of an MLflow run;
    the first that exists.

    Args:
        truth_file: the ground truth of files of detections; by default, that of the experiments.
        split: the split that was evaluated, val or test.
        images: the folder with the images; by default, those of an experiment.

    Raises:
        PipelineError: an experiment doesn't exist or its files are gone, or their ground truth differs.
    """
    with TemporaryDirectory(prefix="fcos-compare-") as folder:
        found: dict[int, Experiment] = {}
        for index, name in enumerate(names):
            if not _is_file(name):
                found[index] = _read_project(name, _find_files(name, Path(folder) / str(index)), split)
        reference = _reference(names, found, truth_file)
        for index, name in enumerate(names):
            if index not in found:
                detections = results.read(Path(name), reference.truth)
                found[index] = replace(reference, name=name, detections=detections, params={}, notes=())
        ordered = [found[index] for index in range(len(names))]
        for experiment in ordered:
            _check_truth(reference, experiment)
        if images:
            ordered = [replace(experiment, find_image=images.joinpath) for experiment in ordered]
        yield ordered


@contextmanager
def open_files(name: str) -> Iterator[FindFile]:
    """The files of one experiment: `workspace`, DVC's experiment, a git revision, or an MLflow run.

    Raises:
        PipelineError: the experiment doesn't exist.
    """
    with TemporaryDirectory(prefix="fcos-evaluate-") as folder:
        try:
            yield _find_files(name, Path(folder))
        except PipelineError as error:  # name the experiment, not the temporary folder
            raise PipelineError(str(error).replace(f"{folder}/", f"{name}: ")) from None


def _is_file(name: str) -> bool:
    return name != WORKSPACE and (Path(name).is_file() or name.endswith(".json"))


def _reference(names: Sequence[str], found: Mapping[int, Experiment], truth_file: Path | None) -> Experiment:
    """The ground truth that all others must equal, as an experiment without detections."""
    if truth_file:
        images = next((experiment.find_image for experiment in found.values()), None)
        return Experiment(str(truth_file), ground_truth.read(truth_file), (), {}, images)
    if not found:
        raise PipelineError(f"{names[0]}: give the ground truth of these detections: --gt FILE")
    return next(iter(found.values()))


def _find_files(name: str, folder: Path) -> FindFile:
    if name == WORKSPACE:
        return workspace().joinpath
    revision = dvc.find_revision(name)
    if revision:
        return partial(_copied, revision, folder)
    predictions = mlflow_experiments.find_predictions(name)
    if predictions is None:
        raise PipelineError(
            f"{name}: no experiment of DVC, git revision, MLflow run or file has this name; "
            "`dvc exp show` and `fcos ui` list experiments"
        )
    return _find_run(name, predictions, folder)


def _copied(revision: dvc.Revision, folder: Path, path: str) -> Path:
    """A copy of a file of the revision."""
    target = folder / path
    if not target.exists():
        revision.copy(path, target)
    return target


def _find_run(name: str, predictions: str, folder: Path) -> FindFile:
    """The files of the workspace or the commit whose predictions have this digest."""
    current = workspace() / "predictions/val.json"
    if current.is_file() and digest(current) == predictions:
        return workspace().joinpath
    for commit in dvc.evaluated_commits():
        revision = dvc.find_revision(commit)
        files = partial(_copied, revision, folder / commit) if revision else None
        try:
            if files and digest(files("predictions/val.json")) == predictions:
                return files
        except PipelineError:  # a revision without predictions, or they are gone
            continue
    raise PipelineError(
        f"{name}: the predictions of this MLflow run are in no commit and no experiment of DVC; "
        "run it again with `dvc exp run`, which keeps them"
    )


def _read_project(name: str, find: FindFile, split: str) -> Experiment:
    try:
        params, notes = _read_lock(find)
        truth = annotations.read(_existing(find, f"data/unified/{split}.json"))
        detections = results.read(_existing(find, f"predictions/{split}.json"), truth)
        # Those for val are chosen again, from the same detections.
        chosen = read_points(_existing(find, "predictions/operating_point.json")) if split != "val" else None
    except PipelineError as error:
        message = str(error)
        raise PipelineError(message if message.startswith(f"{name}:") else f"{name}: {message}") from None
    raw = f"data/raw/{params['dataset']}"
    return Experiment(name, truth, detections, params, lambda file: find(f"{raw}/{file}"), chosen, notes)


def _existing(find: FindFile, path: str) -> Path:
    file = find(path)
    if not file.is_file():
        raise PipelineError(f"{path}: not there; run `dvc repro`")
    return file


def _read_lock(find: FindFile) -> tuple[dict[str, Any], list[str]]:
    """From dvc.lock: the parameters of the result, and what is out of date in it."""
    stages = read_yaml(_existing(find, "dvc.lock")).get("stages", {})
    if "evaluate" not in stages:
        raise PipelineError("dvc.lock: the evaluate stage has not run; run `dvc repro`")
    params: dict[str, Any] = {}
    for name in _STAGES:
        params |= _flatten(stages.get(name, {}).get("params", {}).get("params.yaml", {}))
    written = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    notes = [
        f"{name} ran before {item['path']} changed; run `dvc repro` to bring its result up to date"
        for name in _STAGES
        for item in stages.get(name, {}).get("deps", [])
        if written.get(item["path"], item.get("md5")) != item.get("md5")
    ]
    return params, notes


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _check_truth(reference: Experiment, experiment: Experiment) -> None:
    if difference := ground_truth.difference(reference.truth, experiment.truth):
        data = [name for name in reference.params if name.split(".")[0] in ("dataset", "download", "convert")]
        differing = [name for name in data if reference.params[name] != experiment.params.get(name)]
        hint = f"; they differ in {', '.join(differing)}" if experiment.params and differing else ""
        raise PipelineError(
            f"{experiment.name} was not evaluated on the ground truth of {reference.name}: {difference}{hint}"
        )
