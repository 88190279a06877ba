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
from pipeline.evaluation.columns import Columns, positions
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
    matches = match(truth, detections)
    correct, counted = matches.correct[0], ~matches.ignored[0]
    objects = matches.objects.sum(axis=1).astype(int).tolist()
    curves = {
        category.name: Curve(objects=objects[label], correct=correct[first:last][counted[first:last]])
        for label, (category, first, last) in enumerate(
            zip(truth.categories, matches.class_starts[:-1], matches.class_starts[1:], strict=True)
        )
    }
    return VocMetrics(
        mAP50_11point=_mean(curve.average_precision_11point() for curve in curves.values()),
        mAP50_area=_mean(curve.average_precision_area() for curve in curves.values()),
        per_class=curves,
    )


def match(truth: AnnotationSet, detections: Sequence[Detection]) -> Matches:
    """The detections matched by VOC's rules, from which both mAPs of any weighting of the images follow.

    Classes are in the order of the data set, and detections with equal scores in that of the list.
    """
    scores = np.array([detection.score for detection in detections], dtype=np.float64)
    found, objects = _Boxes.of(truth, detections), _Boxes.of(truth, truth.annotations)
    ranking = np.lexsort((-scores, found.labels))
    ignored = np.array([bool(item.difficult or item.iscrowd) for item in truth.annotations], dtype=bool)
    correct, counted = _classify(found.take(ranking), objects, ignored)
    classes, images = len(truth.categories), len(truth.images)
    cells = objects.groups[~ignored]
    return Matches(
        iou_thresholds=np.array([THRESHOLD]),
        class_starts=np.searchsorted(found.labels[ranking], np.arange(classes + 1)),
        indices=ranking,
        images=found.groups[ranking] % max(images, 1),
        scores=scores[ranking],
        correct=correct[None],
        ignored=~counted[None],
        objects=np.bincount(cells, minlength=classes * images).reshape(classes, images).astype(np.float64),
    )


@dataclass(frozen=True, eq=False)
class _Boxes:
    """N annotations or detections."""

    corners: _Floats  # [N, 4]: x1, y1, x2, y2
    labels: _Ints  # [N], class
    groups: _Ints  # [N], a number for each combination of class and image: class · I + image

    @classmethod
    def of(cls, truth: AnnotationSet, records: Sequence[Annotation] | Sequence[Detection]) -> "_Boxes":
        columns = Columns.of(records)
        labels = positions([category.id for category in truth.categories], columns.category_ids)
        images = positions([image.id for image in truth.images], columns.image_ids)
        return cls(np.stack(xywh_to_xyxy(columns.boxes.T), axis=-1), labels, labels * len(truth.images) + images)

    def take(self, indices: _Ints) -> "_Boxes":
        return _Boxes(self.corners[indices], self.labels[indices], self.groups[indices])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _classify(ranked: _Boxes, objects: _Boxes, ignored: _Bools) -> tuple[_Bools, _Bools]:
    """Whether each detection is correct, and whether it is counted; in a class, the highest score is first."""
    matched, found = _match(ranked, objects)
    counted = np.ones(len(ranked.groups), dtype=bool)
    counted[matched] = ~ignored[found]
    correct = np.zeros(len(ranked.groups), dtype=bool)
    _, first = np.unique(found, return_index=True)  # the first detection of an object has the highest score
    correct[matched[first]] = True
    return correct & counted, counted


def _match(ranked: _Boxes, objects: _Boxes) -> tuple[_Ints, _Ints]:
    """Indices of the detections that have an IoU of at least THRESHOLD with an object, and of the best such object.

    Pairs of a detection and an object of its image and class are computed as flat arrays, in chunks of detections.
    """
    order = np.argsort(objects.groups, kind="stable")
    start = np.searchsorted(objects.groups[order], ranked.groups, side="left")
    counts = np.searchsorted(objects.groups[order], ranked.groups, side="right") - start
    chunks = np.split(np.arange(len(counts)), np.flatnonzero(np.diff(np.cumsum(counts) // _CHUNK)) + 1)
    parts = [
        _best_pairs(ranked.corners, objects.corners, chunk, start[chunk], counts[chunk], order) for chunk in chunks
    ]
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


def _iou(first: _Floats, second: _Floats) -> _Floats:
    """Intersection over union of boxes [N, 4] row by row; 0 for two boxes without area."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    intersection = sides.clip(min=0).prod(axis=1)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(axis=1)
    union = areas - intersection
    iou: _Floats = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return iou
