"""The confusion matrix of a page: which class the objects of each class are detected as."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import AnnotationSet
from pipeline.evaluation import coco
from pipeline.evaluation.coco import ConfusedPair
from pipeline.evaluation.error_kinds import ImageErrors

_MAX_MATRIX = 100  # classes; a larger matrix has a million cells at a thousand classes
_MAX_NUMBERS = 25  # classes, up to which the cells have numbers
_MAX_PAIRS = 10


def confusion(truth: AnnotationSet, errors: Mapping[int, ImageErrors], iou_threshold: float) -> dict[str, Any]:
    """What the page shows: the matrix, if there are few enough classes to see it, and the most confused pairs."""
    categories = sorted(truth.categories, key=lambda category: category.id)
    names = [category.name for category in categories]
    counts = confusion_counts(truth, errors, iou_threshold)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {
        "pairs": confused_pairs(names, counts, shares),
        "names": [*names, None],  # None: background
        "rows": _rows(names, counts, shares) if len(names) <= _MAX_MATRIX and counts.any() else [],
        "numbers": len(names) <= _MAX_NUMBERS,
        "classes": len(names),
    }


def confusion_counts(
    truth: AnnotationSet, errors: Mapping[int, ImageErrors], iou_threshold: float
) -> NDArray[np.int64]:
    """Counts [K + 1, K + 1] of an object's class and a detection's class; the last row and column are background."""
    kept = [
        verdict.detection
        for image in errors.values()
        for verdict in image.verdicts
        if verdict.annotation is None or not (verdict.annotation.iscrowd or verdict.annotation.difficult)
    ]
    return coco.confusion_matrix(truth, kept, iou_threshold=iou_threshold)


def confused_pairs(names: Sequence[str], counts: NDArray[np.int64], shares: NDArray[np.float64]) -> list[ConfusedPair]:
    """Pairs of different classes, the most frequent first, without the background."""
    wrong = counts[:-1, :-1] * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_PAIRS]
    cells = [np.unravel_index(index, wrong.shape) for index in order if wrong.flat[index]]
    return [
        ConfusedPair(names[row], names[column], int(counts[row, column]), float(shares[row, column]))
        for row, column in cells
    ]


def _rows(names: Sequence[str], counts: NDArray[np.int64], shares: NDArray[np.float64]) -> list[dict[str, Any]]:
    # The square root, so that a few confused objects are visible.
    strengths = np.sqrt(shares)
    return [
        {
            "name": name,
            "cells": [
                {"count": int(count), "strength": float(strength), "right": row == column}
                for column, (count, strength) in enumerate(zip(counts[row], strengths[row], strict=True))
            ],
        }
        for row, name in enumerate([*names, None])
    ]
