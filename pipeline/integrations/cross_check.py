"""Detections in every labelled image by a detector that was not trained on it: folds, as DVC's experiments."""

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.conversion.splits import set_option
from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet, Image
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.files import digest, read_json
from pipeline.integrations import dvc
from pipeline.integrations.experiments import open_files
from pipeline.overrides import override
from pipeline.params import Params
from pipeline.workspace import from_root, workspace

SPLITS = ("train", "val")  # those whose labels are judged
_DATA = ("dataset", "download", "convert")  # sections of the parameters that determine the labels
_IRRELEVANT = ("inspect", "machine")  # sections that don't change detections


@dataclass(frozen=True)
class Fold:
    """An experiment that detects objects in one fold and is trained on the others."""

    name: str
    overrides: tuple[str, ...]  # of the parameters


@dataclass(frozen=True)
class Judged:
    """Labels and detections of each split, for images that no detector was trained on."""

    truth: Mapping[str, AnnotationSet]
    detections: Mapping[str, Sequence[Detection]]

    @property
    def num_images(self) -> int:
        return sum(len(split.images) for split in self.truth.values())

    @property
    def num_labels(self) -> int:
        return sum(len(split.objects) for split in self.truth.values())


def plan(params: Params, overrides: Sequence[str], count: int) -> list[Fold]:
    """The experiments of a cross-check with `count` folds, for the labels that lie in data/unified.

    The images of train and val are divided together. The names of the experiments contain a digest of parameters and
    labels, so that those of other parameters or of corrected labels are other experiments.

    Raises:
        PipelineError: an override is invalid or would change the labels, or data/unified is missing or out of date.
    """
    changed = override(params, overrides)
    for section in _DATA:
        if getattr(changed, section) != getattr(params, section):
            raise PipelineError(
                f"-S {section}: the labels in data/unified are judged; "
                "change them in params.yaml and run `dvc repro convert`"
            )
    published = _published_splits()
    fixed = [("convert.train", published)]
    if params.dataset == "custom":  # in a temporary workspace, a relative path would lead elsewhere
        fixed.append(("download.path", str(from_root(params.download.path))))
    if not dvc.is_up_to_date("convert"):
        raise PipelineError("data/unified is out of date; run `dvc repro convert`")
    values = {key: value for key, value in asdict(changed).items() if key not in _IRRELEVANT}
    labels = [digest(_unified(f"{split}.json")) for split in SPLITS]
    identity = hashlib.sha256(json.dumps([count, values, labels]).encode()).hexdigest()[:8]
    quoted = (shlex.split(set_option(key, value))[1] for key, value in fixed)
    shared = (*overrides, *quoted, "convert.val=null", f"convert.folds={count}")
    return [Fold(f"cross-check-{identity}-fold-{index}", (*shared, f"convert.fold={index}")) for index in range(count)]


def _published_splits() -> str:
    """The data set's own splits whose images are in train and val, as `convert.train` names them."""
    report = read_json(_unified("report.json"))
    names = SPLITS if report["hold_out"] is None else ("train",)
    return "+".join(report["splits"][name]["source"] for name in names)


def _unified(name: str) -> Path:
    path = workspace() / "data/unified" / name
    if not path.is_file():
        raise PipelineError(f"{path}: not there yet; run `dvc repro convert`")
    return path


def unfinished(folds: Sequence[Fold]) -> list[Fold]:
    """The folds whose experiments have no result yet."""
    finished = dvc.experiment_names()
    return [fold for fold in folds if fold.name not in finished]


def queue(folds: Sequence[Fold]) -> list[str]:
    """Queues those of the folds that neither wait nor run, and returns their names.

    Raises:
        PipelineError: DVC refused one.
    """
    waiting = dvc.queued_names()
    added = [fold for fold in folds if fold.name not in waiting]
    for fold in added:
        if dvc.run_experiment(fold.name, fold.overrides, "evaluate", queue=True):
            raise PipelineError(f"{fold.name}: DVC could not queue this experiment; its message is above")
    return [fold.name for fold in added]


def run(fold: Fold) -> None:
    """Runs the experiment of a fold.

    Raises:
        PipelineError: it failed, or a worker of the queue has it.
    """
    if fold.name in dvc.queued_names():
        raise PipelineError(
            f"{fold.name}: is in DVC's queue: wait until `dvc queue status` shows Success, "
            "or run `dvc queue start`, or take it out with `dvc queue remove --queued`"
        )
    if dvc.run_experiment(fold.name, fold.overrides, "evaluate", queue=False):
        raise PipelineError(
            f"{fold.name}: this experiment failed, its message is above; run the command again when the cause is "
            "removed: finished folds are kept, and the training continues from its saved state"
        )


def collect(folds: Sequence[Fold]) -> Judged:
    """The labels in data/unified with the detections of all folds; images that are in no fold are left out.

    Raises:
        PipelineError: the detections of a fold are gone, or its labels are not those in data/unified.
    """
    truth = {split: annotations.read(_unified(f"{split}.json")) for split in SPLITS}
    places = {image.file_name: (split, image) for split in SPLITS for image in truth[split].images}
    seen: dict[str, list[Image]] = {split: [] for split in SPLITS}
    detections: dict[str, list[Detection]] = {split: [] for split in SPLITS}
    for fold in folds:
        held_out, found = _read_fold(fold)
        own = {image.id: places[image.file_name] for image in held_out.images if image.file_name in places}
        for split in SPLITS:
            images = {number: image for number, (name, image) in own.items() if name == split}
            _check_labels(fold, held_out, truth[split], images)
            seen[split] += images.values()
            detections[split] += _transfer(found, images)
    return Judged({split: truth[split].subset(seen[split]) for split in SPLITS if seen[split]}, detections)


def read_val() -> Judged:
    """The labels of the val split with the detections of the evaluate stage.

    Raises:
        PipelineError: a file is missing or invalid.
    """
    path = workspace() / "predictions/val.json"
    if not path.is_file():
        raise PipelineError(f"{path}: not there yet; run `dvc repro evaluate`")
    truth = annotations.read(_unified("val.json"))
    return Judged({"val": truth}, {"val": results.read(path, truth)})


def _read_fold(fold: Fold) -> tuple[AnnotationSet, tuple[Detection, ...]]:
    with open_files(fold.name) as find:
        try:
            truth = annotations.read(find("data/unified/val.json"))
            return truth, results.read(find("predictions/val.json"), truth)
        except PipelineError as error:
            remedy = f"run `dvc exp remove {fold.name}`, then this command again"
            raise PipelineError(f"{str(error).partition(';')[0].partition(': run')[0]}; {remedy}") from None


def _check_labels(fold: Fold, held_out: AnnotationSet, truth: AnnotationSet, images: Mapping[int, Image]) -> None:
    """Raises PipelineError if an image has other labels in the fold.

    Args:
        images: those of `truth`, by the fold's id.
    """
    if held_out.categories != truth.categories:
        raise PipelineError(f"{fold.name}: other classes than those in data/unified; run `dvc exp remove {fold.name}`")
    theirs, ours = held_out.by_image(), truth.by_image()
    for number, image in images.items():
        labels = [
            Counter(replace(item, id=0, image_id=0) for item in group) for group in (theirs[number], ours[image.id])
        ]
        if labels[0] != labels[1]:
            raise PipelineError(
                f"{fold.name}: {image.file_name} has other labels than in data/unified; "
                f"run `dvc exp remove {fold.name}`, then this command again"
            )


def _transfer(detections: Sequence[Detection], images: Mapping[int, Image]) -> Iterator[Detection]:
    """The detections in some images, with their ids in data/unified."""
    for detection in detections:
        if image := images.get(detection.image_id):
            yield replace(detection, image_id=image.id)
