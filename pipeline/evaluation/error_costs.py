"""What AP50 would be without the errors of one kind, as matches: the cost of an error is then resampled as AP is.

The kinds are those of TIDE (Bolya et al., 2008.08115), corrected as in the paper. A wrong class or a poor box becomes
correct if its object has no correct detection and no such error with a higher score; otherwise, the detection is
removed. Other wrong detections are removed, and missed objects no longer count. An object is missed if it has neither a
correct detection nor one with a wrong class or a poor box. What happens in an image depends on no other image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.data.annotations import AnnotationSet
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.detections import Detection
from pipeline.evaluation import resampling
from pipeline.evaluation.columns import Columns, positions
from pipeline.evaluation.error_kinds import MIN_RELATED_IOU
from pipeline.evaluation.matches import Bools, Floats, Ints, Matches

IOU = 0.5  # lowest IoU of a correct detection
_OF_DETECTIONS = ("wrong_class", "poor_box", "wrong_class_and_poor_box", "duplicate", "background")
KINDS = (*_OF_DETECTIONS, "missed")
_CHUNK = 2**20  # pairs of a detection and an object that are compared at once


def resample(without: Matches, ap50: Floats) -> Floats:
    """The AP50 that a kind of error costs in each draw [draws], as a mean over the classes with objects.

    Args:
        without: the matches without these errors.
        ap50: AP50 with the errors, in the same draws [draws, K].
    """
    corrected = resampling.resample(without, len(ap50))[..., 0]
    # No object counts in a class of which all objects are missed: it gains nothing.
    return resampling.mean(np.where(np.isnan(corrected), 0, corrected) - ap50, axis=1)


def correct_errors(
    truth: AnnotationSet, detections: Sequence[Detection], evaluation: Any, matches: Matches
) -> dict[str, Matches]:
    """The matches at an IoU of 0.5 without the errors of each kind: five kinds of detections, and missed objects.

    Args:
        evaluation: pycocotools' `COCOeval` after `evaluate()`.
        matches: of that evaluation.
    """
    row = int(np.argmin(abs(matches.iou_thresholds - IOU)))
    objects = _Objects.of(truth, evaluation, row)
    plain = _at_threshold(matches, row)
    errors = _Errors.of(plain, objects, Columns.of(detections).boxes)
    without = {kind: _correct(plain, objects, errors, number) for number, kind in enumerate(_OF_DETECTIONS)}
    return without | {"missed": replace(plain, objects=plain.objects - _count_missed(plain, objects, errors))}


@dataclass(frozen=True, eq=False)
class _Objects:
    """The M objects of all images, by image; in an image by class, and in a class those that are ignored last."""

    first: Ints  # [I + 1], number of objects in earlier images
    labels: Ints  # [M]
    boxes: Floats  # [M, 4]: x, y, width, height
    ignored: Bools  # [M], crowds and difficult objects
    matched: Bools  # [M], whether a detection is correct for them

    @classmethod
    def of(cls, truth: AnnotationSet, evaluation: Any, row: int) -> "_Objects":
        params, columns = evaluation.params, Columns.of(truth.annotations)
        images, labels = positions(params.imgIds, columns.image_ids), positions(params.catIds, columns.category_ids)
        ignored = np.array([bool(item.iscrowd or item.difficult) for item in truth.annotations], dtype=bool)
        matched = np.zeros(len(ignored), dtype=bool)
        matched[list(_matched_objects(evaluation, row))] = True
        order = np.lexsort((ignored, labels, images))
        return cls(
            first=np.searchsorted(images[order], np.arange(len(params.imgIds) + 1)),
            labels=labels[order],
            boxes=columns.boxes[order],
            ignored=ignored[order],
            matched=matched[order],
        )


def _matched_objects(evaluation: Any, row: int) -> Iterator[int]:
    """The indices of the objects that a detection is correct for."""
    all_sizes = evaluation.params.areaRng[evaluation.params.areaRngLbl.index("all")]
    for cell in evaluation.evalImgs:
        if cell is not None and cell["aRng"] == all_sizes:
            # `coco.evaluate` numbers the objects from 1.
            yield from (
                number - 1 for number, match in zip(cell["gtIds"], cell["gtMatches"][row], strict=True) if match
            )


@dataclass(frozen=True, eq=False)
class _Errors:
    """The N wrong detections."""

    positions: Ints  # [N], among all detections
    kinds: Ints  # [N], indices in _OF_DETECTIONS
    targets: Ints  # [N], the object that a detection with a wrong class or a poor box is for; otherwise −1
    corrected: Bools  # [N], whether it would be correct without its error

    @classmethod
    def of(cls, matches: Matches, objects: _Objects, boxes: Floats) -> "_Errors":
        """The errors of detections with these boxes [all detections, 4]."""
        positions = np.flatnonzero(~matches.correct[0])
        images, labels = matches.images[positions], matches.labels[positions]
        boxes = boxes[matches.indices[positions]]
        counts = np.diff(objects.first)[images]
        kinds = np.full(len(positions), _OF_DETECTIONS.index("background"))
        targets = np.full(len(positions), -1)
        near_objects = np.flatnonzero(counts)
        parts = np.flatnonzero(np.diff(np.cumsum(counts[near_objects]) // _CHUNK)) + 1
        for part in np.split(near_objects, parts):
            if len(part):
                kinds[part], targets[part] = _classify(
                    boxes[part], labels[part], objects, objects.first[images[part]], counts[part]
                )
        ranked = np.lexsort((matches.indices[positions], -matches.scores[positions]))
        ranked = ranked[targets[ranked] >= 0]
        object_of, first = np.unique(targets[ranked], return_index=True)
        free = ~objects.matched[object_of] & ~objects.ignored[object_of]
        corrected = np.zeros(len(positions), dtype=bool)
        corrected[ranked[first[free]]] = True
        return cls(positions, kinds, targets, corrected)


def _classify(boxes: Floats, labels: Ints, objects: _Objects, first: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """The kinds and the targets of wrong detections, each compared with `counts` objects from `first` on."""
    starts = np.cumsum(counts) - counts
    detection = np.repeat(np.arange(len(boxes)), counts)
    candidate = np.arange(counts.sum()) + np.repeat(first - starts, counts)
    ious = _iou(boxes[detection], objects.boxes[candidate], objects.ignored[candidate])
    same_class = objects.labels[candidate] == labels[detection]
    same, same_object = _best(np.where(same_class, ious, 0), detection, candidate, starts)
    other, other_object = _best(
        np.where(same_class | objects.ignored[candidate], 0, ious), detection, candidate, starts
    )
    rules = {  # the first that applies decides
        "poor_box": (same >= MIN_RELATED_IOU) & (same <= IOU),
        "wrong_class": other >= IOU,
        "duplicate": same > IOU,
        "background": other <= MIN_RELATED_IOU,
    }
    kinds = np.select(
        list(rules.values()),
        [_OF_DETECTIONS.index(kind) for kind in rules],
        _OF_DETECTIONS.index("wrong_class_and_poor_box"),
    )
    targets = np.select([rules["poor_box"], rules["wrong_class"]], [same_object, other_object], -1)
    return kinds, targets


def _best(ious: Floats, detection: Ints, candidate: Ints, starts: Ints) -> tuple[Floats, Ints]:
    """The highest IoU of each detection, and the first object that has it."""
    best = np.maximum.reduceat(ious, starts)
    hits = np.flatnonzero(ious == best[detection])[::-1]
    objects = np.empty(len(starts), dtype=np.int64)
    objects[detection[hits]] = candidate[hits]  # the last value written stays: that of the first object
    return best, objects


def _iou(detected: Floats, objects: Floats, crowd: Bools) -> Floats:
    """As in pycocotools, with the same rounding: boxes [N, 4] row by row."""
    x1, y1, x2, y2 = xywh_to_xyxy(detected.T)
    left, top, right, bottom = xywh_to_xyxy(objects.T)
    width = (np.minimum(x2, right) - np.maximum(x1, left)).clip(min=0)
    height = (np.minimum(y2, bottom) - np.maximum(y1, top)).clip(min=0)
    intersection = width * height
    area = detected[:, 2] * detected[:, 3]
    union = np.where(crowd, area, area + objects[:, 2] * objects[:, 3] - intersection)
    ious: Floats = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return ious


def _at_threshold(matches: Matches, row: int) -> Matches:
    """The matches at one IoU threshold, without ignored detections."""
    return _select(matches, row, np.flatnonzero(~matches.ignored[row]), matches.labels, matches.correct[row])


def _correct(matches: Matches, objects: _Objects, errors: _Errors, kind: int) -> Matches:
    """The matches without the errors of one kind."""
    chosen = errors.kinds == kind
    corrected = errors.positions[chosen & errors.corrected]
    correct, labels, kept = matches.correct[0].copy(), matches.labels.copy(), np.ones(len(matches.images), dtype=bool)
    correct[corrected] = True
    labels[corrected] = objects.labels[errors.targets[chosen & errors.corrected]]
    kept[errors.positions[chosen]] = False
    kept[corrected] = labels[corrected] == matches.labels[corrected]
    # With equal scores, as in hotcoco, detections that come from another class are the last.
    moved = corrected[~kept[corrected]]
    moved = moved[np.argsort(matches.indices[moved])]
    return _select(matches, 0, np.concatenate([np.flatnonzero(kept), moved]), labels, correct)


def _select(matches: Matches, row: int, positions: Ints, labels: Ints, correct: Bools) -> Matches:
    """The matches of some detections, which are sorted by class and score."""
    order = positions[np.lexsort((-matches.scores[positions], labels[positions]))]
    return Matches(
        iou_thresholds=matches.iou_thresholds[[row]],
        class_starts=np.searchsorted(labels[order], np.arange(len(matches.objects) + 1)),
        indices=matches.indices[order],
        images=matches.images[order],
        scores=matches.scores[order],
        correct=correct[None, order],
        ignored=np.zeros((1, len(order)), dtype=bool),
        objects=matches.objects,
    )


def _count_missed(matches: Matches, objects: _Objects, errors: _Errors) -> Floats:
    """The number of missed objects of each class in each image [K, I]."""
    classes, images = matches.objects.shape
    missed = ~objects.matched & ~objects.ignored
    missed[errors.targets[errors.targets >= 0]] = False
    image = np.repeat(np.arange(images), np.diff(objects.first))
    cells = objects.labels[missed] * images + image[missed]
    return np.bincount(cells, minlength=classes * images).reshape(classes, images).astype(np.float64)
