"""Documents of FiftyOne's database: samples with their ground truth, and the detections of an experiment.

They have the form that FiftyOne gives them, without its classes, which need twenty times as long.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from bson import ObjectId

from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.data.detections import Detection
from pipeline.evaluation.error_kinds import ImageErrors, Verdict
from pipeline.evaluation.matches import COCO_RECALLS
from pipeline.integrations.fiftyone_fields import LOW_SCORE, ExperimentFields

Document = dict[str, Any]
_EDITED = ("_id", "label", "bounding_box", "tags")  # keys of a label that people change; a copied label has its own id
# Label of the object, of the detection, IoU, score, id of the object, of the detection: a row of FiftyOne's results.
Match = tuple[str | None, str | None, float | None, float | None, str | None, str | None]


@dataclass(frozen=True)
class JudgedImage:
    """The changes of a sample that show an experiment's detections, and rows of its evaluation."""

    fields: Document  # by the path in the sample
    matches: list[Match] = field(default_factory=list)


def sample_documents(truth: AnnotationSet, folder: str, split: str, dataset: ObjectId) -> Iterator[Document]:
    """One sample for each image, with its ground truth and without detections.

    Args:
        folder: with the images.
        dataset: id of the dataset in the database.
    """
    names, now, objects = _names(truth), datetime.now(UTC), truth.by_image()
    for image in truth.images:
        labels = [truth_label(item, image, names) for item in objects[image.id]]
        sizes = [label["size"] for label in labels if not label["ignored"]]
        yield {
            "_id": ObjectId(),
            "filepath": f"{folder}/{image.file_name}",
            "tags": [],
            "metadata": {"_cls": "ImageMetadata", "width": image.width, "height": image.height},
            "_media_type": "image",
            "_rand": random.random(),
            "_dataset_id": dataset,
            "created_at": now,
            "last_modified_at": now,
            "image_id": image.id,
            "split": split,
            "source": str(PurePosixPath(image.file_name).parent),
            "objects": len(sizes),
            "smallest_object": min(sizes, default=None),
            "ground_truth": {"_cls": "Detections", "detections": labels},
        }


def truth_label(item: Annotation, image: Image, names: Mapping[int, str]) -> Document:
    return {
        **_label(names[item.category_id], item.bbox, image),
        "annotation_id": item.id,
        "ignored": bool(item.iscrowd or item.difficult),
        "size": float(np.sqrt(item.bbox[2] * item.bbox[3])),
    }


def _label(name: str, bbox: Sequence[float], image: Image) -> Document:
    return {
        "_id": ObjectId(),
        "_cls": "Detection",
        "attributes": {},
        "tags": [],
        "label": name,
        "bounding_box": relative_box(bbox, image),
    }


def relative_box(bbox: Sequence[float], image: Image) -> list[float]:
    """A box in pixels as fractions of the image."""
    x, y, width, height = bbox
    return [x / image.width, y / image.height, width / image.width, height / image.height]


def read_detections(labels: Iterable[Document], image: Image, categories: Mapping[str, int]) -> Iterator[Detection]:
    """The detections that `judge_image` has stored in a field."""
    for label in labels:
        if label["label"] in categories:
            x, y, width, height = label["bounding_box"]
            box = (x * image.width, y * image.height, width * image.width, height * image.height)
            yield Detection(image.id, categories[label["label"]], box, label["confidence"])


def judge_image(
    image: Image,
    objects: Sequence[Annotation],
    errors: ImageErrors,
    names: Mapping[int, str],
    thresholds: Mapping[int, float],
    experiment: ExperimentFields,
    truth_labels: Sequence[Document],
    iou_threshold: float,
) -> JudgedImage:
    """Shows an experiment's detections in a sample.

    Args:
        errors: of all detections, whatever their score.
        thresholds: lowest score of a detection that counts, by category id.
        truth_labels: the sample's labels in the field `ground_truth`, as they are stored.
    """
    kept = [verdict for verdict in errors.verdicts if _counts(verdict, thresholds)]
    labels = [_detection_label(verdict, image, names, _counts(verdict, thresholds)) for verdict in errors.verdicts]
    kept_labels = [label for label in labels if label["error"] != LOW_SCORE]
    counted = {item.id: item for item in objects if not (item.iscrowd or item.difficult)}
    truth_ids = {label["annotation_id"]: str(label["_id"]) for label in truth_labels if "annotation_id" in label}
    pairs = _pair(kept, counted)
    found = {item for item, index in pairs.items() if kept[index].kind == "correct"}
    wrong = [verdict for verdict in kept if verdict.kind != "correct"]
    fields: Document = {
        experiment.predictions: {"_cls": "Detections", "detections": labels},
        experiment.errors: len(wrong) + len(counted) - len(found),
        experiment.most_certain_error: max((verdict.detection.score for verdict in wrong), default=None),
        experiment.ap50: _ap50(errors.verdicts, counted),
        experiment.lrp_error: _lrp_error(kept, counted, iou_threshold),
        f"{experiment.eval}_tp": len(found),
        f"{experiment.eval}_fp": len(wrong),
        f"{experiment.eval}_fn": len(counted) - len(found),
    }
    matches = _evaluate(kept, kept_labels, pairs, counted, names, truth_ids, experiment.eval)
    by_object = {item: (kept_labels[index], kept[index].iou) for item, index in pairs.items()}
    for position, label in enumerate(truth_labels):
        path = f"ground_truth.detections.{position}"
        number = label.get("annotation_id")
        if number in counted:
            fields[f"{path}.{experiment.error}"] = "found" if number in found else "missed"
            fields[f"{path}.{experiment.eval}"] = "tp" if number in found else "fn"
            detection, iou = by_object.get(number, ({"_id": ""}, None))
            fields[f"{path}.{experiment.eval}_id"] = str(detection["_id"])
            fields[f"{path}.{experiment.eval}_iou"] = iou
        elif number is not None:
            fields[f"{path}.{experiment.error}"] = "ignored"
    return JudgedImage(fields, matches)


def _counts(verdict: Verdict, thresholds: Mapping[int, float]) -> bool:
    return verdict.detection.score >= thresholds[verdict.detection.category_id]


def _detection_label(verdict: Verdict, image: Image, names: Mapping[int, str], counts: bool) -> Document:
    detection, item = verdict.detection, verdict.annotation
    return {
        **_label(names[detection.category_id], detection.bbox, image),
        "confidence": detection.score,
        "error": verdict.kind if counts else LOW_SCORE,
        "iou": verdict.iou,
        "true_label": names[item.category_id] if item else None,
    }


def _pair(kept: Sequence[Verdict], counted: Mapping[int, Annotation]) -> dict[int, int]:
    """The detection, by its position, that belongs to each object in FiftyOne's evaluation, by the object's id.

    It is the one that found the object; if none did, the first of another class on it.
    """
    pairs: dict[int, int] = {}
    for kind in ("correct", "wrong_class"):
        for index, verdict in enumerate(kept):
            if verdict.kind == kind and verdict.annotation and verdict.annotation.id in counted:
                pairs.setdefault(verdict.annotation.id, index)
    return pairs


def _evaluate(
    kept: Sequence[Verdict],
    labels: Sequence[Document],
    pairs: Mapping[int, int],
    counted: Mapping[int, Annotation],
    names: Mapping[int, str],
    truth_ids: Mapping[int, str],
    key: str,
) -> list[Match]:
    """Adds FiftyOne's evaluation attributes to the labels of detections, and returns the rows of its results."""
    objects = {index: counted[item] for item, index in pairs.items()}
    matches: list[Match] = []
    for index, (verdict, label) in enumerate(zip(kept, labels, strict=True)):
        item = objects.get(index)
        label[key] = "tp" if verdict.kind == "correct" else "fp"
        label[f"{key}_id"] = truth_ids.get(item.id, "") if item else ""
        label[f"{key}_iou"] = verdict.iou if item else None
        true = (names[item.category_id], verdict.iou, truth_ids.get(item.id)) if item else (None, None, None)
        if item or verdict.kind != "correct":  # on a crowd or a difficult object, it doesn't count
            matches.append((true[0], label["label"], true[1], label["confidence"], true[2], str(label["_id"])))
    missed = (item for item in counted.values() if item.id not in pairs)
    return matches + [(names[item.category_id], None, None, None, truth_ids.get(item.id), None) for item in missed]


def _lrp_error(kept: Sequence[Verdict], counted: Mapping[int, Annotation], iou_threshold: float) -> float | None:
    """The localization-recall-precision error of an image (arXiv:2011.10772), 0 to 1; None if nothing is there.

    Each wrong detection and each missed object costs 1, a correct detection the part of its IoU that is missing.
    """
    found = [item.iou for item in kept if item.kind == "correct" and item.annotation and item.annotation.id in counted]
    wrong, missed = sum(verdict.kind != "correct" for verdict in kept), len(counted) - len(found)
    total = len(found) + wrong + missed
    cost = sum((1 - iou) / (1 - iou_threshold) for iou in found) if iou_threshold < 1 else 0.0
    return (cost + wrong + missed) / total if total else None


def _ap50(verdicts: Sequence[Verdict], counted: Mapping[int, Annotation]) -> float | None:
    """COCO's AP of one image at the IoU of `inspect.iou_threshold`, mean over its classes; None without objects."""
    classes = [item.category_id for item in counted.values()]
    found: dict[int, list[bool]] = {category: [] for category in classes}
    for verdict in verdicts:  # highest score first
        category = verdict.detection.category_id
        correct = verdict.kind == "correct"
        ignored = correct and verdict.annotation is not None and verdict.annotation.id not in counted
        if category in found and not ignored:
            found[category].append(correct)
    values = [_average_precision(correct, classes.count(category)) for category, correct in found.items()]
    return float(np.mean(values)) if values else None


def _average_precision(correct: Sequence[bool], objects: int) -> float:
    """The mean of the precision at COCO's recalls, of detections with descending scores."""
    if not any(correct):
        return 0.0
    counts = np.cumsum(correct)
    precision = counts / np.arange(1, len(correct) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(counts / objects, COCO_RECALLS, side="left")].mean())


def _names(truth: AnnotationSet) -> dict[int, str]:
    return {category.id: category.name for category in truth.categories}


def keep_edits(sample: Document, previous: Document) -> None:
    """Copies the tags and boxes of the sample that this one replaces, where both show the same ground truth.

    Boxes that a person drew, moved, relabelled or deleted in the App stay as they are there.
    """
    sample["tags"] = previous["tags"]
    new = {label["annotation_id"]: label for label in sample["ground_truth"]["detections"]}
    sample["ground_truth"]["detections"] = [
        {**new.get(label.get("annotation_id"), label), **{key: label[key] for key in _EDITED if key in label}}
        for label in previous["ground_truth"]["detections"]
    ]


def keep_tags(sample: Document, previous: Document) -> None:
    """Copies a person's tags from the sample that this one replaces, and those of objects that stayed the same."""
    sample["tags"] = previous["tags"]
    old = {label.get("annotation_id"): label for label in previous["ground_truth"]["detections"]}
    for label in sample["ground_truth"]["detections"]:
        before = old.get(label["annotation_id"], {})
        if (before.get("label"), before.get("bounding_box")) == (label["label"], label["bounding_box"]):
            label["tags"] = before["tags"]


def keep_tags_of_boxes(labels: Iterable[Document], previous: Iterable[Document]) -> None:
    """Copies a person's tags from the boxes that these replace, where class and place are the same."""
    tagged = {_class_and_place(label): label["tags"] for label in previous if label.get("tags")}
    for label in labels:
        label["tags"] = tagged.get(_class_and_place(label), label["tags"])


def _class_and_place(label: Document) -> tuple[str, ...]:
    return (str(label.get("label")), *(f"{value:.6f}" for value in label["bounding_box"]))
