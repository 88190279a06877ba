"""COCO's twelve numbers: by pycocotools where they are reported, by hotcoco where they must be quick."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection

# In the order of pycocotools' `stats`.
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True, slots=True)
class CocoMetrics:
    """Fractions of 1; None where there is no object to judge by (pycocotools says −1)."""

    numbers: Mapping[str, float | None]  # by the names in NAMES
    per_class: Mapping[str, Mapping[str, float | None]]  # AP and AP50, by category name in the data set's order


def evaluate(truth: AnnotationSet, detections: Sequence[Detection]) -> CocoMetrics:
    """The numbers that are reported, by pycocotools.

    An object marked `difficult` is handed over as a crowd. pycocotools overwrites an annotation's `ignore` by
    its `iscrowd`, so that is the only way to say "neither missed nor wrong": any number of detections may match
    it, and do so by the share of their own area that it covers.

    Source: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py.
    """
    with redirect_stdout(io.StringIO()):  # it prints its progress
        evaluation = COCOeval(_indexed(_truth(truth)), _indexed(_results(truth, detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    numbers = {name: _known(value) for name, value in zip(NAMES, evaluation.stats, strict=True)}
    return CocoMetrics(numbers, _per_class(truth, evaluation))


def fast_ap(truth: AnnotationSet, detections: Sequence[Detection]) -> dict[str, float | None]:
    """The same twelve numbers, by name, a hundred times quicker: for validation while training.

    Source: hotcoco, whose equality with `evaluate` is tested.
    """
    found = _results(truth, detections)
    evaluation = hotcoco.COCOeval(hotcoco.COCO(_truth(truth)), hotcoco.COCO(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    with redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return {name: _known(value) for name, value in zip(NAMES, evaluation.stats, strict=True)}


def _known(value: float) -> float | None:
    return float(value) if value > -1 else None


def _per_class(truth: AnnotationSet, evaluation: Any) -> dict[str, dict[str, float | None]]:
    precision = evaluation.eval["precision"][..., 0, -1]  # thresholds × recalls × classes, every size, 100 detections
    column = {category_id: index for index, category_id in enumerate(evaluation.params.catIds)}
    return {
        category.name: {
            "AP": _mean(precision[:, :, column[category.id]]),
            "AP50": _mean(precision[0, :, column[category.id]]),
        }
        for category in truth.categories
    }


def _mean(precision: Any) -> float | None:
    known = precision[precision > -1]
    return float(np.mean(known)) if known.size else None


def _indexed(dataset: dict[str, Any]) -> Any:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _truth(truth: AnnotationSet) -> dict[str, Any]:
    # Numbered anew from 1: an annotation of id 0 counts as "no match" in pycocotools.
    annotations = [
        {
            "id": number,
            "image_id": each.image_id,
            "category_id": each.category_id,
            "bbox": list(each.bbox),
            "area": each.area,
            "iscrowd": int(each.iscrowd or each.difficult),
        }
        for number, each in enumerate(truth.annotations, start=1)
    ]
    return _frame(truth) | {"annotations": annotations}


def _results(truth: AnnotationSet, detections: Sequence[Detection]) -> dict[str, Any]:
    # Not by pycocotools' loadRes: it fails on an empty list.
    annotations = [
        {
            "id": number,
            "image_id": each.image_id,
            "category_id": each.category_id,
            "bbox": list(each.bbox),
            "area": each.bbox[2] * each.bbox[3],
            "iscrowd": 0,
            "score": each.score,
        }
        for number, each in enumerate(detections, start=1)
    ]
    return _frame(truth) | {"annotations": annotations}


def _frame(truth: AnnotationSet) -> dict[str, Any]:
    return {
        "images": [
            {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height}
            for image in truth.images
        ],
        "categories": [{"id": category.id, "name": category.name} for category in truth.categories],
    }
