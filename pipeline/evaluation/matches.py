"""Detections matched to objects once, as flat arrays, from which AP of any weighting of the images follows quickly."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import AnnotationSet

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int32]

COCO_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections of K classes in I images, and whether they are correct at each of T IoU thresholds.

    Detections are sorted by class, and in a class by descending score, as in pycocotools.
    """

    iou_thresholds: Floats  # [T]
    class_starts: Ints  # [K + 1], position of the first detection of each class, and the number of detections
    indices: Ints  # [N], index of the detection in the list that was evaluated
    images: Ints  # [N], index of the detection's image
    scores: Floats  # [N]
    correct: Bools  # [T, N]
    ignored: Bools  # [T, N], matched to a crowd or a difficult object: neither correct nor wrong
    objects: Floats  # [K, I], number of objects to detect: without crowds and difficult objects

    @classmethod
    def of(cls, evaluation: Any, size: str = "all") -> "Matches":
        """The matches of pycocotools.

        Args:
            evaluation: a `COCOeval` after `evaluate()`.
            size: of the objects that count: all, small, medium or large.
        """
        params = evaluation.params
        first, sizes = params.areaRngLbl.index(size), len(params.areaRng)
        cells, count = evaluation.evalImgs, len(params.imgIds)
        starts = [(label * sizes + first) * count for label in range(len(params.catIds))]
        grid = [cells[start : start + count] for start in starts]
        classes = [_class_arrays(row, len(params.iouThrs)) for row in grid]
        indices, images, scores, correct, ignored = (
            np.concatenate(parts, axis=-1) for parts in zip(*classes, strict=True)
        )
        return cls(
            iou_thresholds=np.asarray(params.iouThrs),
            class_starts=np.cumsum([0, *(len(found[1]) for found in classes)]),
            indices=indices,
            images=images,
            scores=scores,
            correct=correct,
            ignored=ignored,
            objects=np.array([[_count_objects(cell) for cell in row] for row in grid], dtype=np.float64),
        )

    def average_precision(
        self, weights: Floats | Counts | None = None, recalls: Floats | None = COCO_RECALLS
    ) -> Floats:
        """AP of each class at each IoU threshold [K, T]; NaN for a class without objects.

        Args:
            weights: [I], how often each image counts; by default, once. Sums of int32 are the fastest.
            recalls: AP is the mean of the precision at these recalls; None: the area under the precision curve.
        """
        weights = np.ones(self.objects.shape[1], dtype=np.int32) if weights is None else weights
        found, objects = self._correct, self.objects @ weights
        mass = weights[self.images]
        before = _sums_before(mass)
        counted = before[found.end] - before[found.class_start]
        if len(found.ignored):
            before = _sums_before(mass[found.ignored])
            counted -= before[found.ignored_end] - before[found.ignored_start]
        before = _sums_before(mass[found.end - 1])
        correct = before[1:] - before[found.segment_start]
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(counted > 0, correct / counted, 0.0)
            recall = np.where(correct > 0, correct / objects[found.label], 0.0)
            gain = mass[found.end - 1] / objects[found.label]  # of recall, by each correct detection
        if recalls is not None:
            reached = np.searchsorted(recalls, recall, side="right")
            gain = np.diff(reached, prepend=0) / len(recalls)
            gain[found.first] = reached[found.first] / len(recalls)
        # Precisions are raised above those of later segments, so that one pass from the end serves all segments.
        envelope = np.maximum.accumulate((precision + found.offset)[::-1])[::-1] - found.offset
        count = len(objects) * len(self.iou_thresholds)
        total = np.bincount(found.segment, envelope * gain, minlength=count).astype(np.float64)
        ap = total.reshape(len(objects), -1)
        ap[objects == 0] = np.nan
        return ap

    def recall(self, weights: Floats, max_detections: int) -> Floats:
        """COCO's recall of each class at each IoU threshold [draws, K, T]; NaN for a class without objects.

        Args:
            weights: [draws, I], how often each image counts.
            max_detections: detections of a class in an image that count, those with the highest scores.
        """
        counted = self._rank < max_detections
        found = np.stack([self.count(correct & counted) @ weights.T for correct in self.correct])  # [T, K, draws]
        objects = self.objects @ weights.T
        recall: Floats = np.divide(found, objects, out=np.full(found.shape, np.nan), where=objects > 0)
        return recall.transpose(2, 1, 0)

    def count(self, selected: Bools) -> Floats:
        """The number of selected detections [N] of each class in each image [K, I]."""
        classes, images = self.objects.shape
        cell = self.labels[selected] * images + self.images[selected]
        return np.bincount(cell, minlength=classes * images).reshape(classes, images).astype(np.float64)

    @cached_property
    def labels(self) -> Ints:
        """The class of each detection [N], an index."""
        return np.repeat(np.arange(len(self.objects)), np.diff(self.class_starts))

    @cached_property
    def _rank(self) -> Ints:
        """The position [N] of each detection among those of its class and image, by descending score."""
        cell = self.labels * self.objects.shape[1] + self.images
        order = np.argsort(cell, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order)) - np.searchsorted(cell[order], cell[order])
        return rank

    @cached_property
    def _correct(self) -> "_Correct":
        return _Correct.of(self)


@dataclass(frozen=True, eq=False)
class _Correct:
    """The M correct detections, by class and IoU threshold (a segment) and then by descending score."""

    segment: Ints  # [M], class · T + threshold
    label: Ints  # [M], class
    end: Ints  # [M], position after the detection, among all detections
    class_start: Ints  # [M], position of the first detection of its class
    segment_start: Ints  # [M], index of the first correct detection of its segment
    first: Ints  # [≤ K·T], index of the first correct detection of each segment that has one
    offset: Floats  # [M], decreasing from segment to segment by more than a precision
    ignored: Ints  # [G], positions of the ignored detections, by segment and then by descending score
    ignored_start: Ints  # [M], number of ignored detections in earlier segments
    ignored_end: Ints  # [M], the same, plus those of its segment with a higher score

    @classmethod
    def of(cls, matches: Matches) -> "_Correct":
        segment, position = _by_segment(matches, matches.correct)
        ignored_segment, ignored = _by_segment(matches, matches.ignored)
        label, size = segment // len(matches.iou_thresholds), len(matches.images)
        segment_start = np.searchsorted(segment, segment)
        return cls(
            segment=segment,
            label=label,
            end=position + 1,
            class_start=matches.class_starts[label],
            segment_start=segment_start,
            first=np.unique(segment_start),
            offset=2.0 * (segment.max(initial=0) - segment),
            ignored=ignored,
            ignored_start=np.searchsorted(ignored_segment, segment),
            ignored_end=np.searchsorted(ignored_segment * size + ignored, segment * size + position),
        )


def _sums_before(values: NDArray[Any]) -> NDArray[Any]:
    """The sums of the first 0, 1, 2, … values, of their type."""
    sums = np.zeros(len(values) + 1, dtype=values.dtype)
    np.cumsum(values, out=sums[1:])
    return sums


def class_names(truth: AnnotationSet) -> list[str]:
    """The names of the K classes, in the order of their ids, which is that of `Matches`."""
    return [category.name for category in sorted(truth.categories, key=lambda category: category.id)]


def _by_segment(matches: Matches, marked: Bools) -> tuple[Ints, Ints]:
    """Segment and position of the marked detections [T, N], sorted by both."""
    threshold, position = np.nonzero(marked)
    label = np.searchsorted(matches.class_starts, position, side="right") - 1
    segment = label * len(matches.iou_thresholds) + threshold
    order = np.lexsort((position, segment))
    return segment[order], position[order]


def _class_arrays(cells: Sequence[Any], thresholds: int) -> tuple[Ints, Ints, Floats, Bools, Bools]:
    """Indices, images, scores, correct and ignored of one class, by descending score."""
    cells = [(index, cell) for index, cell in enumerate(cells) if cell is not None]
    # `coco.evaluate` numbers the detections from 1.
    indices = np.concatenate([np.zeros(0, np.int64), *(np.asarray(cell["dtIds"], np.int64) - 1 for _, cell in cells)])
    images = np.concatenate([np.full(len(cell["dtScores"]), index) for index, cell in cells] or [np.zeros(0, np.int64)])
    scores = np.concatenate([cell["dtScores"] for _, cell in cells] or [np.zeros(0)])
    empty = np.zeros((thresholds, 0), dtype=bool)
    matched = np.concatenate([empty, *(cell["dtMatches"] > 0 for _, cell in cells)], axis=1)
    ignored = np.concatenate([empty, *(cell["dtIgnore"].astype(bool) for _, cell in cells)], axis=1)
    order = np.argsort(-scores, kind="stable")
    return indices[order], images[order], scores[order], (matched & ~ignored)[:, order], ignored[:, order]


def _count_objects(cell: Any) -> int:
    return 0 if cell is None else int(np.count_nonzero(np.asarray(cell["gtIgnore"]) == 0))
