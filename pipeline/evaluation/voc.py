"""VOC's mean average precision at an overlap of 0.5, by both of its protocols.

The rules are the development kit's (VOCevaldet.m). A detection belongs to the object of its image and class that it
overlaps most. The best-scored detection of an object is right, a further one wrong, as is one that overlaps
by less than half. What belongs to a `difficult` object, or a crowd, counts for nothing, and neither is missed.
Boxes here have edges at real coordinates, so overlap has none of the kit's "+ 1".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.detections import Detection

THRESHOLD = 0.5  # smallest overlap (IoU) of a right detection

_Bools = NDArray[np.bool_]
_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Precision against recall of one class: an entry for each detection that counts, best score first."""

    objects: int  # that count: neither difficult nor a crowd
    right: _Bools  # whether the detection found an object

    @property
    def found(self) -> _Ints:
        """Objects found by each detection and those above it."""
        return np.cumsum(self.right, dtype=np.int64)

    @property
    def recall(self) -> _Floats:
        """Share of the objects that are found; empty where there are none."""
        return self.found / self.objects if self.objects else np.empty(0)

    @property
    def precision(self) -> _Floats:
        """Share of the detections that are right."""
        return self.found / np.arange(1, len(self.right) + 1)

    def precision_at(self, steps: int) -> _Floats:
        """The best precision at a recall of at least 0, 1/steps, …, 1; zero where no such recall is reached."""
        # In floating point, as the kit and pycocotools compare them: the recall 3/10 falls short of 3 × 0.1, which
        # is 0.30000000000000004. Whole numbers would be neater, and a point off the published results.
        first = np.searchsorted(self.recall, np.linspace(0, 1, steps + 1))
        return np.append(self._envelope(), 0.0)[first]

    def average_precision_11point(self) -> float | None:
        """VOC2007's: the mean of the precision at the recalls 0, 0.1, …, 1. None without objects."""
        return float(self.precision_at(10).mean()) if self.objects else None

    def average_precision_area(self) -> float | None:
        """VOC2010's and later: the area under the curve, its precision made to fall only. None without objects."""
        # Each object found moves recall on by 1/objects.
        return float(self._envelope()[self.right].sum() / self.objects) if self.objects else None

    def _envelope(self) -> _Floats:
        envelope: _Floats = np.maximum.accumulate(self.precision[::-1])[::-1]
        return envelope


@dataclass(frozen=True, slots=True)
class VocMetrics:
    """Fractions of 1. A mean is over the classes that have objects; None where none has."""

    mAP50_11point: float | None
    mAP50_area: float | None
    per_class: Mapping[str, Curve]  # by category name, in the data set's order


def evaluate(truth: AnnotationSet, detections: Sequence[Detection]) -> VocMetrics:
    """Both protocols' numbers and each class's curve. Equal scores keep the order of `detections`."""
    ranked = sorted(detections, key=lambda detection: -detection.score)
    right, counts = _judge(truth, ranked)
    classes = np.array([detection.category_id for detection in ranked], dtype=np.int64)
    curves = {
        category.name: Curve(
            objects=sum(each.category_id == category.id and not _ignored(each) for each in truth.annotations),
            right=right[counts & (classes == category.id)],
        )
        for category in truth.categories
    }
    return VocMetrics(
        mAP50_11point=_mean(curve.average_precision_11point() for curve in curves.values()),
        mAP50_area=_mean(curve.average_precision_area() for curve in curves.values()),
        per_class=curves,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _ignored(annotation: Annotation) -> bool:
    return bool(annotation.difficult or annotation.iscrowd)


def _judge(truth: AnnotationSet, ranked: Sequence[Detection]) -> tuple[_Bools, _Bools]:
    """For each detection, best score first: whether it is right, and whether it counts at all."""
    matched, found = _best_objects(truth, ranked)
    ignored = np.array([_ignored(annotation) for annotation in truth.annotations], dtype=bool)
    counts = np.ones(len(ranked), dtype=bool)
    counts[matched] = ~ignored[found]
    right = np.zeros(len(ranked), dtype=bool)
    _, first = np.unique(found, return_index=True)  # the first to claim its object is the best-scored one
    right[matched[first]] = True
    return right & counts, counts


def _best_objects(truth: AnnotationSet, ranked: Sequence[Detection]) -> tuple[_Ints, _Ints]:
    """The detections that overlap an object by THRESHOLD or more, in their order, and the object each overlaps most.

    Every pair of a detection and an object of its image and class is looked at in one go, as flat arrays.
    """
    objects, object_groups = _boxes(truth, truth.annotations)
    boxes, groups = _boxes(truth, ranked)
    order = np.argsort(object_groups, kind="stable")
    start = np.searchsorted(object_groups[order], groups, side="left")
    many = np.searchsorted(object_groups[order], groups, side="right") - start
    detection = np.repeat(np.arange(len(ranked)), many)
    place = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)  # 0, 1, … within each detection's pairs
    candidate = order[np.repeat(start, many) + place]
    overlap = _iou(boxes[detection], objects[candidate])
    by_overlap = np.lexsort(
        (place, -overlap, detection)
    )  # each detection's best pair first; of equals, the file's first
    _, first = np.unique(detection[by_overlap], return_index=True)
    best = by_overlap[first]
    best = best[overlap[best] >= THRESHOLD]
    return detection[best], candidate[best]


def _boxes(truth: AnnotationSet, records: Sequence[Annotation] | Sequence[Detection]) -> tuple[_Floats, _Ints]:
    """Boxes as [records, 4] corners, and a number for each record's image and class together."""
    image = {each.id: index for index, each in enumerate(truth.images)}
    label = truth.label_of()
    boxes = np.array([record.bbox for record in records], dtype=np.float64).reshape(-1, 4)
    groups = [label[record.category_id] * len(image) + image[record.image_id] for record in records]
    return np.stack(xywh_to_xyxy(boxes.T), axis=-1), np.array(groups, dtype=np.int64)


def _iou(first: _Floats, second: _Floats) -> _Floats:
    """Intersection over union of [n, 4] corners, row by row; 0 for two boxes without area."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    intersection = sides.clip(min=0).prod(axis=1)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(axis=1)
    union = areas - intersection
    iou: _Floats = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return iou
