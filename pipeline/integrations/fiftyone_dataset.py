"""Fills a FiftyOne dataset: one for each data set, with a field and an evaluation for each experiment.

FiftyOne is imported in a process of its own (`python -m pipeline.integrations.fiftyone_dataset`): the import takes
seconds and connects to the database, the process cleans up there when it exits, and FiftyOne writes into the home
folder. The process therefore runs only while the database does, with a home in `.fcos`.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pymongo import UpdateOne

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.evaluation import error_kinds
from pipeline.files import digest
from pipeline.integrations import (
    fiftyone_extras,
    fiftyone_fields,
    fiftyone_info,
    fiftyone_labels,
    fiftyone_layout,
    fiftyone_patches,
    fiftyone_views,
    mongo,
)
from pipeline.integrations.fiftyone import ERROR_STATUS, DatasetSpec, dataset_name
from pipeline.integrations.fiftyone_editing import make_editable
from pipeline.integrations.fiftyone_fields import ExperimentFields, content_hash
from pipeline.integrations.fiftyone_prune import remove

_CODE = (__file__, error_kinds.__file__, fiftyone_fields.__file__, fiftyone_labels.__file__)


def main() -> None:
    """The child process: reads a list of DatasetSpec as JSON from stdin, and writes `refresh`'s result to stdout."""
    specs = [DatasetSpec(**record) for record in json.load(sys.stdin)]
    mongo.shorten_fiftyone_import()
    try:
        with redirect_stdout(sys.stderr):  # FiftyOne may print
            counts = refresh(specs)
    except PipelineError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(ERROR_STATUS)
    print(json.dumps(counts))  # noqa: T201


def refresh(specs: Sequence[DatasetSpec]) -> dict[str, Any]:
    """Brings samples, experiments on the same ground truth, and views up to date; what is up to date stays untouched.

    Returns:
        The number of images or patches in each view of the first experiment.
    """
    first, truth = specs[0], annotations.read(Path(specs[0].annotations))
    data, code = content_hash(first.split, first.images, digest(Path(first.annotations))), _code()
    dataset = _open(first, data)
    fiftyone_patches.move_tags(dataset)
    info = fiftyone_info.read(dataset)
    if info.get("data") != data or (first.owns_truth and info.get("code") != code):
        _replace_samples(dataset, first, truth, same_truth=info.get("data") == data)
        fiftyone_info.save(dataset, data=data, code=code, annotations_digest=digest(Path(first.annotations)))
    for spec in specs:
        _fill_if_changed(dataset, spec, truth, f"{data} {code}")
    if first.extras:
        detections = list(results.read(Path(first.predictions), truth))
        fiftyone_extras.refresh(dataset, first.extras, truth, detections)
    fields = ExperimentFields.of(first.experiment)
    show = first.show or fiftyone_info.read(dataset).get("shown", fields.predictions) == fields.predictions
    counts = fiftyone_views.refresh(dataset, fields, show=show)
    fiftyone_layout.apply(dataset)
    return counts


def _code() -> str:
    return content_hash([digest(Path(file)) for file in _CODE])


def _open(spec: DatasetSpec, data: str) -> Any:
    """The dataset of the data set; another one for an experiment on other data, from a temporary workspace."""
    import fiftyone as fo

    exists = fo.dataset_exists(spec.name)
    if exists and not spec.owns_truth and fiftyone_info.read(fo.load_dataset(spec.name)).get("data") != data:
        name = dataset_name(f"{spec.name}-{spec.experiment}")
        return fo.load_dataset(name) if fo.dataset_exists(name) else fo.Dataset(name, persistent=True)
    return fo.load_dataset(spec.name) if exists else fo.Dataset(spec.name, persistent=True)


def _fill_if_changed(dataset: Any, spec: DatasetSpec, truth: AnnotationSet, samples: str) -> None:
    """Raises PipelineError if two experiments have one field, or the detections are invalid."""
    fields, settings = ExperimentFields.of(spec.experiment), _settings(spec)
    known = fiftyone_info.read(dataset)["experiments"].get(fields.predictions, {})
    if known.get("name", spec.experiment) != spec.experiment:
        both = f"{known['name']} and {spec.experiment}"
        raise PipelineError(f"experiments {both}: both would be {fields.predictions} in FiftyOne; rename one of them")
    stamp = content_hash(settings, digest(Path(spec.predictions)), samples)
    if known.get("stamp") != stamp:
        detections = results.read(Path(spec.predictions), truth)
        # Without a stamp, so that an interrupted process does it again.
        fiftyone_info.save_experiment(dataset, fields.predictions, {**settings, "stamp": None})
        _fill(dataset, truth, fields, settings, detections)
        fiftyone_info.save_experiment(dataset, fields.predictions, {**settings, "stamp": stamp})


def _settings(spec: DatasetSpec) -> dict[str, Any]:
    """What the fields of an experiment are computed with, besides its detections."""
    return {
        "name": spec.experiment,
        "thresholds": spec.score_thresholds,
        "iou": spec.iou_threshold,
        "metrics": spec.metrics,
    }


def _replace_samples(dataset: Any, spec: DatasetSpec, truth: AnnotationSet, *, same_truth: bool) -> None:
    """Writes the samples with their ground truth; tags and experiments on the same images are kept.

    Args:
        same_truth: the samples show this ground truth already, so that people's edits of boxes are kept as well.
    """
    fiftyone_info.save(dataset, data=None, images=spec.images)  # an interrupted process does it again
    fiftyone_fields.declare_samples(dataset)
    make_editable(dataset, [category.name for category in truth.categories])
    dataset.media_type = "image"
    dataset.default_classes = [category.name for category in truth.categories]
    dataset.save()
    collection = fiftyone_info.collection(dataset)
    old = {(sample["split"], sample["image_id"]): sample for sample in collection.find()}
    obsolete = [sample["_id"] for sample in collection.find({}, ["_id"])]
    new = list(fiftyone_labels.sample_documents(truth, spec.images, spec.split, dataset._doc.id))
    experiments = dict(fiftyone_info.read(dataset)["experiments"])
    complete = all((spec.split, image.id) in old for image in truth.images)
    for sample in new:
        if previous := old.get((spec.split, sample["image_id"])):
            keep = fiftyone_labels.keep_edits if same_truth else fiftyone_labels.keep_tags
            keep(sample, previous)
            for name in experiments if complete else ():
                sample[name] = previous.get(name)
    for start in range(0, len(new), 1000):
        collection.insert_many(new[start : start + 1000])
    collection.delete_many({"_id": {"$in": obsolete}})
    dataset.reload()
    for name, settings in experiments.items():
        fields = ExperimentFields(name.removeprefix("predictions"))
        if not complete:
            remove(dataset, fields)
        elif name != ExperimentFields.of(spec.experiment).predictions:
            _fill(dataset, truth, fields, settings, _stored_detections(dataset, truth, fields))


def _stored_detections(dataset: Any, truth: AnnotationSet, fields: ExperimentFields) -> list[Detection]:
    images = {image.id: image for image in truth.images}
    categories = {category.name: category.id for category in truth.categories}
    return [
        detection
        for sample in fiftyone_info.collection(dataset).find({}, ["image_id", fields.predictions])
        for detection in fiftyone_labels.read_detections(
            (sample.get(fields.predictions) or {}).get("detections", []), images[sample["image_id"]], categories
        )
    ]


def _fill(
    dataset: Any,
    truth: AnnotationSet,
    fields: ExperimentFields,
    settings: Mapping[str, Any],
    detections: Sequence[Detection],
) -> None:
    """Writes the fields of an experiment and the results of its evaluation, and nothing else."""
    thresholds = dict(zip([category.id for category in truth.categories], settings["thresholds"], strict=True))
    errors = error_kinds.analyze(truth, detections, score_threshold=-float("inf"), iou_threshold=settings["iou"])
    fiftyone_fields.declare_experiment(dataset, fields)
    stored = ["image_id", "last_modified_at", "ground_truth.detections._id", "ground_truth.detections.annotation_id"]
    samples = {sample["image_id"]: sample for sample in fiftyone_info.collection(dataset).find({}, stored)}
    names, objects = {category.id: category.name for category in truth.categories}, truth.by_image()
    matches, updates, now = [], [], datetime.now(UTC)
    for image in truth.images:
        sample = samples[image.id]
        judged = fiftyone_labels.judge_image(
            image,
            objects[image.id],
            errors[image.id],
            names,
            thresholds,
            fields,
            sample["ground_truth"]["detections"],
            settings["iou"],
        )
        matches.extend(judged.matches)
        # Unless someone has changed the sample in the App: labels are addressed by their position.
        unchanged = {"_id": sample["_id"], "last_modified_at": sample["last_modified_at"]}
        updates.append(UpdateOne(unchanged, {"$set": {**judged.fields, "last_modified_at": now}}))
    _write(dataset, updates)
    _register_evaluation(dataset, fields, settings, matches)


def _write(dataset: Any, updates: Sequence[UpdateOne]) -> None:
    written = 0
    for start in range(0, len(updates), 1000):
        written += (
            fiftyone_info.collection(dataset).bulk_write(updates[start : start + 1000], ordered=False).matched_count
        )
    if written < len(updates):
        raise PipelineError(f"FiftyOne, dataset {dataset.name}: changed in the App while it was filled; run it again")
    dataset.reload()


def _register_evaluation(
    dataset: Any, fields: ExperimentFields, settings: Mapping[str, Any], matches: Iterable[fiftyone_labels.Match]
) -> None:
    """Stores results that FiftyOne's Model Evaluation panel shows as those of `evaluate_detections`.

    The detections at the score thresholds are evaluated, so that the panel's precision and recall are those of the
    detector in use. Wrong classes are pairs of the confusion matrix, therefore `classwise` is false.
    """
    from fiftyone.utils.eval.coco import COCOEvaluationConfig
    from fiftyone.utils.eval.detection import DetectionResults

    config = COCOEvaluationConfig(
        fields.predictions, "ground_truth", iou=settings["iou"], classwise=False, iscrowd="ignored"
    )
    method = config.build()
    method.register_run(dataset, fields.eval, cleanup=False)
    found = DetectionResults(
        dataset, config, fields.eval, list(matches), classes=dataset.default_classes, backend=method
    )
    found.custom_metrics = {
        name: {"key": name, "value": value, "label": name, "lower_is_better": False}
        for name, value in settings["metrics"].items()
    }
    method.save_run_results(dataset, fields.eval, found)


if __name__ == "__main__":
    main()
