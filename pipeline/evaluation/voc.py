"""VOC's mean average precision at an IoU of 0.5, by both protocols.

The rules are those of the development kit (VOCevaldet.m). A detection is matched to the object of its image and class
with the highest IoU. The detection of an object with the highest score is correct; further detections of it are wrong,
and so are detections with an IoU below 0.5. Detections of a `difficult` object or a crowd are ignored, and such objects
are not missed. Boxes have pixel-edge coordinates, so there is no "+ 1" in the IoU as in the kit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.detections import Detection
from pipeline.evaluation.matches import Matches

THRESHOLD = 0.5  # lowest IoU of a correct detection
_CHUNK = 2**20  # pairs that are compared at once

_Bools = NDArray[np.bool_]
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]
RECALLS_2007 = np.linspace(0, 1, 11)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision and recall of one class, with one entry for each counted detection, highest score first."""

    objects: int  # without difficult objects and crowds
    correct: _Bools  # whether the detection is correct

    @property
    def true_positives(self) -> _Ints:
        """Number of correct detections up to each detection."""
        return np.cumsum(self.correct, dtype=np.int64)

    @property
    def recall(self) -> _Floats:
        """Share of the objects that are found; empty if there are no objects."""
        return self.true_positives / self.objects if self.objects else np.empty(0)

    @property
    def precision(self) -> _Floats:
        """Share of the detections that are correct."""
        return self.true_positives / np.arange(1, len(self.correct) + 1)

    def precision_at(self, steps: int) -> _Floats:
        """The highest precision at a recall of at least 0, 1/steps, …, 1; 0 for recalls that are not reached."""
        # Compared in floating point, as in the kit and pycocotools: a recall of 3/10 is less than 3 × 0.1, which is
        # 0.30000000000000004. With exact fractions, results would differ from the published ones.
        first = np.searchsorted(self.recall, np.linspace(0, 1, steps + 1))
        return np.append(self._envelope(), 0.0)[first]

    def average_precision_11point(self) -> float | None:
        """VOC2007: the mean precision at the recalls 0, 0.1, …, 1. None without objects."""
        return float(self.precision_at(10).mean()) if self.objects else None

    def average_precision_area(self) -> float | None:
        """VOC2010 and later: the area under the monotonically decreasing precision curve. None without objects."""
        # Each correct detection increases the recall by 1/objects.
        return float(self._envelope()[self.correct].sum() / self.objects) if self.objects else None

    def _envelope(self) -> _Floats:
        envelope: _Floats = np.maximum.accumulate(self.precision[::-1])[::-1]
        return envelope


@dataclass(frozen=True, slots=True)
class VocMetrics:
    """Fractions of 1. The means are over the classes with objects; None if no class has objects."""

    mAP50_11point: float | None
    mAP50_area: float | None
    per_class: Mapping[str, Curve]  # by category name, in the order of the data set


def evaluate(truth: AnnotationSet, detections: Sequence[Detection]) -> VocMetrics:
    """Computes both mAPs and the curve of each class. Detections with equal scores keep their order."""
    ranked = sorted(detections, key=lambda detection: -detection.score)
    correct, counted = _classify(truth, ranked)
    classes = np.array([detection.category_id for detection in ranked], dtype=np.int64)
    curves = {
        category.name: Curve(
            objects=sum(item.category_id == category.id and not _ignored(item) for item in truth.annotations),
            correct=correct[counted & (classes == category.id)],
        )
        for category in truth.categories
    }
    return VocMetrics(
        mAP50_11point=_mean(curve.average_precision_11point() for curve in curves.values()),
        mAP50_area=_mean(curve.average_precision_area() for curve in curves.values()),
        per_class=curves,
    )


def match(truth: AnnotationSet, detections: Sequence[Detection]) -> Matches:
    """The detections matched by VOC's rules, from which both mAPs of any weighting of the images follow."""
    ranking = sorted(range(len(detections)), key=lambda index: -detections[index].score)
    ranked = [detections[index] for index in ranking]
    correct, counted = _classify(truth, ranked)
    image_index, label = {image.id: index for index, image in enumerate(truth.images)}, truth.label_of()
    labels = np.array([label[detection.category_id] for detection in ranked], dtype=np.int64)
    images = np.array([image_index[detection.image_id] for detection in ranked], dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    objects = np.zeros((len(label), len(image_index)))
    for item in truth.annotations:
        objects[label[item.category_id], image_index[item.image_id]] += not _ignored(item)
    return Matches(
        iou_thresholds=np.array([THRESHOLD]),
        class_starts=np.searchsorted(labels[order], np.arange(len(label) + 1)),
        indices=np.array(ranking, dtype=np.int64)[order],
        images=images[order],
        scores=np.array([detection.score for detection in ranked])[order],
        correct=correct[None, order],
        ignored=~counted[None, order],
        objects=objects,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _ignored(annotation: Annotation) -> bool:
    return bool(annotation.difficult or annotation.iscrowd)


def _classify(truth: AnnotationSet, ranked: Sequence[Detection]) -> tuple[_Bools, _Bools]:
    """Whether each detection, highest score first, is correct, and whether it is counted."""
    matched, objects = _match(truth, ranked)
    ignored = np.array([_ignored(annotation) for annotation in truth.annotations], dtype=bool)
    counted = np.ones(len(ranked), dtype=bool)
    counted[matched] = ~ignored[objects]
    correct = np.zeros(len(ranked), dtype=bool)
    _, first = np.unique(objects, return_index=True)  # the first detection of an object has the highest score
    correct[matched[first]] = True
    return correct & counted, counted


def _match(truth: AnnotationSet, ranked: Sequence[Detection]) -> tuple[_Ints, _Ints]:
    """Indices of the detections that have an IoU of at least THRESHOLD with an object, and of the best such object.

    Pairs of a detection and an object of its image and class are computed as flat arrays, in chunks of detections.
    """
    objects, object_groups = _boxes(truth, truth.annotations)
    boxes, groups = _boxes(truth, ranked)
    order = np.argsort(object_groups, kind="stable")
    start = np.searchsorted(object_groups[order], groups, side="left")
    counts = np.searchsorted(object_groups[order], groups, side="right") - start
    chunks = np.split(np.arange(len(ranked)), np.flatnonzero(np.diff(np.cumsum(counts) // _CHUNK)) + 1)
    parts = [_best_pairs(boxes, objects, chunk, start[chunk], counts[chunk], order) for chunk in chunks]
    detections, candidates = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return detections, candidates


def _best_pairs(
    boxes: _Floats, objects: _Floats, chunk: _Ints, start: _Ints, counts: _Ints, order: _Ints
) -> tuple[_Ints, _Ints]:
    """The matches of some detections, whose objects are order[start : start + counts]."""
    detection = np.repeat(chunk, counts)
    index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, … for each detection
    candidate = order[np.repeat(start, counts) + index]
    iou = _iou(boxes[detection], objects[candidate])
    # The highest IoU of each detection first; of equal ones, the first object in the file.
    ranking = np.lexsort((index, -iou, detection))
    _, first = np.unique(detection[ranking], return_index=True)
    best = ranking[first]
    best = best[iou[best] >= THRESHOLD]
    return detection[best], candidate[best]


def _boxes(truth: AnnotationSet, records: Sequence[Annotation] | Sequence[Detection]) -> tuple[_Floats, _Ints]:
    """Boxes [N, 4] as x1, y1, x2, y2, and a number [N] for each combination of image and class."""
    image_index = {image.id: index for index, image in enumerate(truth.images)}
    label = truth.label_of()
    boxes = np.array([record.bbox for record in records], dtype=np.float64).reshape(-1, 4)
    groups = [label[record.category_id] * len(image_index) + image_index[record.image_id] for record in records]
    return np.stack(xywh_to_xyxy(boxes.T), axis=-1), np.array(groups, dtype=np.int64)


def _iou(first: _Floats, second: _Floats) -> _Floats:
    """Intersection over union of boxes [N, 4] row by row; 0 for two boxes without area."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    intersection = sides.clip(min=0).prod(axis=1)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(axis=1)
    union = areas - intersection
    iou: _Floats = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return iou
