"""Detections matched to objects once, as flat arrays, from which AP of any weighting of the images follows quickly."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import AnnotationSet

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

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
        first, sizes, images = params.areaRngLbl.index(size), len(params.areaRng), len(params.imgIds)
        starts = [(label * sizes + first) * images for label in range(len(params.catIds))]
        grid = chain.from_iterable(evaluation.evalImgs[start : start + images] for start in starts)
        cells = _Cells.of({index: cell for index, cell in enumerate(grid) if cell is not None}, len(params.iouThrs))
        # `coco.evaluate` numbers the detections from 1.
        detections = evaluation.cocoDt.dataset["annotations"]
        scores = np.array([detection["score"] for detection in detections], dtype=np.float64)[cells.indices]
        areas = np.array([detection["area"] for detection in detections], dtype=np.float64)[cells.indices]
        low, high = params.areaRng[first]
        outside = (areas < low) | (areas > high)
        ignored = np.tile(outside, (len(params.iouThrs), 1))
        ignored[:, cells.compared] = cells.ignored
        correct = np.zeros_like(ignored)
        correct[:, cells.compared] = cells.matched & ~cells.ignored
        order = np.lexsort((-scores, cells.of_detection // images))
        return cls(
            iou_thresholds=np.asarray(params.iouThrs),
            class_starts=np.searchsorted(cells.of_detection[order] // images, np.arange(len(starts) + 1)),
            indices=cells.indices[order],
            images=cells.of_detection[order] % images,
            scores=scores[order],
            correct=correct[:, order],
            ignored=ignored[:, order],
            objects=cells.count_objects(len(starts), images),
        )

    def average_precision(self, drawn: Bools | None = None, recalls: Floats | None = COCO_RECALLS) -> Floats:
        """AP of each class at each IoU threshold [K, T]; NaN for a class without objects.

        Args:
            drawn: [I], which images count; by default, all.
            recalls: AP is the mean of the precision at these recalls; None: the area under the precision curve.
        """
        drawn = np.ones(self.objects.shape[1], dtype=bool) if drawn is None else drawn
        objects, ranks = (self.objects @ drawn).astype(np.int64), self._rank_correct(drawn)
        # Precisions are raised above those of later segments, so that one pass from the end serves all segments.
        offset = np.repeat(self._correct.offset, ranks.sizes)
        raised = (ranks.rank + 1) / ranks.counted + offset
        envelope = np.maximum.accumulate(raised[::-1])[::-1] - offset
        first_gain = np.repeat(np.cumsum(objects) - objects, len(self.iou_thresholds))
        gain = _gains(objects, recalls)[np.repeat(first_gain, ranks.sizes) + ranks.rank]
        return self._sum_of_segments(envelope * gain, ranks.segment, objects)

    def leave_one_out_precision(self) -> Floats:
        """The mean over a class's objects of the precision at their scores, 0 for missed ones [K, T]; NaN without any.

        The precision at the score of an object is estimated from the other objects, so it has nearly no bias where
        objects are few: an object that is found would raise the precision at its own score. No other object tells the
        precision at the highest score, or of a single object: it is the share of the classes with objects and
        detections whose first detection is correct.
        """
        ranks = self._rank_correct(np.ones(self.objects.shape[1], dtype=bool))
        objects = self.objects.sum(axis=1).astype(np.int64)
        total = np.repeat(objects, len(self.iou_thresholds))[ranks.segment]
        others = ranks.rank * np.divide(total, total - 1, out=np.zeros(len(total)), where=total > 1)
        detections = others + ranks.counted - ranks.rank - 1
        first = self.class_starts[:-1][(np.diff(self.class_starts) > 0) & (objects > 0)]
        of_first = self.correct[:, first].sum(axis=1) / np.maximum((~self.ignored[:, first]).sum(axis=1), 1)
        precision = of_first[ranks.segment % len(self.iou_thresholds)]
        np.divide(others, detections, out=precision, where=(detections > 0) & (total > 1))
        return self._sum_of_segments(precision / total, ranks.segment, objects)

    def _rank_correct(self, drawn: Bools) -> "_Ranks":
        """The correct detections of the images [I] that count."""
        found = self._correct
        counts = drawn[found.images]
        kept = np.flatnonzero(counts[found.position])
        position, segment = found.position[kept], found.segment[kept]
        sizes = np.bincount(segment, minlength=len(found.first_of_class))  # of segments; they are contiguous
        before = _sums_before(counts)
        counted = before[position + 1] - np.repeat(before[found.first_of_class], sizes)
        if len(found.ignored):
            before = _sums_before(counts[found.ignored])
            counted -= before[found.ignored_end[kept]] - np.repeat(before[found.first_ignored], sizes)
        rank = np.arange(len(kept)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return _Ranks(segment, rank, counted, sizes)

    def _sum_of_segments(self, values: Floats, segment: Ints, objects: Ints) -> Floats:
        """Sums [K, T] of the values of correct detections; NaN for a class without objects [K]."""
        total = np.bincount(segment, values, minlength=len(self._correct.offset)).astype(np.float64)
        sums = total.reshape(len(objects), -1)
        sums[objects == 0] = np.nan
        return sums

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
    """The M correct detections, by class and IoU threshold (a segment) and then by descending score.

    Positions are among the detections that matter: of a class, those up to the last correct one.
    """

    images: Ints  # index of the image of each detection that matters
    segment: Ints  # [M], class · T + threshold
    position: Ints  # [M]
    first_of_class: Ints  # [K·T], position of the first detection of the segment's class
    offset: Floats  # [K·T], decreasing from segment to segment by more than a precision
    ignored: Ints  # [G], positions of the ignored detections, by segment and then by descending score
    first_ignored: Ints  # [K·T], number of ignored detections in earlier segments
    ignored_end: Ints  # [M], the same, plus those of its segment with a higher score

    @classmethod
    def of(cls, matches: Matches) -> "_Correct":
        last = np.full(len(matches.objects), -1)
        correct = np.flatnonzero(matches.correct.any(axis=0))
        last[matches.labels[correct]] = correct  # positions ascend, so the last of each class stays
        matters = np.arange(len(matches.images)) <= last[matches.labels]
        starts = _sums_before(matters)[matches.class_starts]
        segment, position = _by_segment(starts, matches.correct[:, matters])
        ignored_segment, ignored = _by_segment(starts, matches.ignored[:, matters])
        segments, size = np.arange(len(matches.objects) * len(matches.iou_thresholds)), int(starts[-1])
        return cls(
            images=matches.images[matters],
            segment=segment,
            position=position,
            first_of_class=np.repeat(starts[:-1], len(matches.iou_thresholds)),
            offset=segments[::-1] * np.float64(2),
            ignored=ignored,
            first_ignored=np.searchsorted(ignored_segment, segments),
            ignored_end=np.searchsorted(ignored_segment * size + ignored, segment * size + position),
        )


@dataclass(frozen=True, eq=False)
class _Ranks:
    """The correct detections in some of the images."""

    segment: Ints
    rank: Ints  # 0, 1, … in each segment
    counted: Ints  # detections with at least this score in the segment, without ignored ones
    sizes: Ints  # [K·T], number of correct detections of each segment


def _sums_before(values: Bools) -> Ints:
    """The number of true values among the first 0, 1, 2, …"""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def _gains(objects: Ints, recalls: Floats | None) -> Floats:
    """What each object found adds to the recall, or to the share of `recalls` reached: class by class [objects]."""
    total = np.repeat(objects, objects)
    if recalls is None:
        return 1 / total
    found = np.arange(1, len(total) + 1) - np.repeat(np.cumsum(objects) - objects, objects)  # 1, 2, … in each class
    reached = np.searchsorted(recalls, found / total, side="right")
    gains: Floats = np.where(found == 1, reached, np.diff(reached, prepend=0)) / len(recalls)
    return gains


def class_names(truth: AnnotationSet) -> list[str]:
    """The names of the K classes, in the order of their ids, which is that of `Matches`."""
    return [category.name for category in sorted(truth.categories, key=lambda category: category.id)]


def _by_segment(class_starts: Ints, marked: Bools) -> tuple[Ints, Ints]:
    """Segment and position of the marked detections [T, N], sorted by both."""
    threshold, position = np.nonzero(marked)
    label = np.searchsorted(class_starts, position, side="right") - 1
    segment = label * len(marked) + threshold
    order = np.lexsort((position, segment))
    return segment[order], position[order]


@dataclass(frozen=True, eq=False)
class _Cells:
    """pycocotools' results of the combinations of a class and an image that have objects or detections.

    A cell's number is class · I + image.
    """

    of_detection: Ints  # [N], the cell of each detection
    indices: Ints  # [N], index of the detection in the list that was evaluated
    compared: Bools  # [N], whether there are objects in its cell; the others of this kind match nothing
    matched: Bools  # [T, detections in cells with objects]
    ignored: Bools  # [T, detections in cells with objects]
    of_object: Ints  # the cell of each object that counts

    @classmethod
    def of(cls, cells: Mapping[int, Any], thresholds: int) -> "_Cells":
        with_objects = {index: cell for index, cell in cells.items() if cell["gtIds"]}
        sizes = [len(cell["dtIds"]) for cell in cells.values()]
        ids = chain.from_iterable([cell["dtIds"] for cell in cells.values()])
        empty = np.zeros((thresholds, 0))
        compared = [bool(cell["gtIds"]) for cell in cells.values()]
        objects = [np.count_nonzero(cell["gtIgnore"] == 0) for cell in with_objects.values()]
        return cls(
            of_detection=np.repeat(np.array([*cells], dtype=np.int64), sizes),
            indices=np.fromiter(ids, np.int64, sum(sizes)) - 1,
            compared=np.repeat(np.array(compared, dtype=bool), sizes),
            matched=np.concatenate([empty, *(cell["dtMatches"] for cell in with_objects.values())], axis=1) > 0,
            ignored=np.concatenate([empty, *(cell["dtIgnore"] for cell in with_objects.values())], axis=1) > 0,
            of_object=np.repeat(np.array([*with_objects], dtype=np.int64), objects),
        )

    def count_objects(self, classes: int, images: int) -> Floats:
        counts = np.bincount(self.of_object, minlength=classes * images)
        return counts.reshape(classes, images).astype(np.float64)
