"""COCO's twelve metrics: by pycocotools for reports, by hotcoco for fast validation during training."""

import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection

Ints = NDArray[np.int64]

# In the order of `stats` in pycocotools.
MAX_DETECTIONS = 100  # of a class in an image, that count
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True, slots=True)
class CocoMetrics:
    """Fractions of 1; None if there is no object to evaluate (−1 in pycocotools)."""

    values: Mapping[str, float | None]  # by the names in NAMES
    per_class: Mapping[str, Mapping[str, float | None]]  # AP and AP50 of each category, by its name
    evaluation: Any = field(compare=False)  # pycocotools' COCOeval


@dataclass(frozen=True)
class ConfusedPair:
    """Objects of a class that are detected as another one."""

    actual: str
    predicted: str
    count: int
    share: float  # of the objects of the actual class


def evaluate(truth: AnnotationSet, detections: Sequence[Detection]) -> CocoMetrics:
    """Computes the metrics with pycocotools.

    A `difficult` object is passed as a crowd: pycocotools overwrites `ignore` with `iscrowd`, so an object can't be
    ignored in another way. As with a crowd, any number of detections may match it, and the IoU is replaced by the share
    of the detection's area inside the object.

    Source: cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py.
    """
    with redirect_stdout(io.StringIO()):  # pycocotools prints progress
        evaluation = COCOeval(_indexed(truth_dict(truth)), _indexed(results_dict(truth, detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = {name: _or_none(value) for name, value in zip(NAMES, evaluation.stats, strict=True)}
    return CocoMetrics(values, _per_class(truth, evaluation), evaluation)


def fast_ap(
    truth: AnnotationSet, detections: Sequence[Detection], max_detections: int = MAX_DETECTIONS
) -> dict[str, float | None]:
    """The same twelve metrics by name, a hundred times faster, for validation during training.

    Args:
        max_detections: how many detections of a class in an image count. With another number than 100, at which
            pycocotools gives −1 for AP, the metric AR100 is called after that number.

    Source: hotcoco. Its equality with `evaluate` is tested.
    """
    evaluation = fast_evaluation(truth, detections, max_detections)
    evaluation.accumulate()
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "hotcoco: max_dets differ", UserWarning)
        evaluation.summarize()
    names = [f"AR{max_detections}" if name == "AR100" else name for name in NAMES]
    return {name: _or_none(value) for name, value in zip(names, evaluation.stats, strict=True)}


def fast_evaluation(
    truth: AnnotationSet, detections: Sequence[Detection], max_detections: int = MAX_DETECTIONS
) -> hotcoco.COCOeval:
    """hotcoco's evaluation after matching detections to objects."""
    evaluation = _hotcoco_evaluation(truth, detections)
    evaluation.params.max_dets = [1, 10, max_detections]
    evaluation.evaluate()
    return evaluation


def confusion_matrix(truth: AnnotationSet, detections: Sequence[Detection], *, iou_threshold: float) -> Ints:
    """Counts of pairs of an object's class and a detection's class [K + 1, K + 1], in the order of category ids.

    In each image, detections are matched to objects of any class, highest score first, each to the free object with the
    highest IoU. The last row counts detections without an object, the last column objects without a detection. Crowds
    and difficult objects are left out, but not the detections of them.

    Source: hotcoco.
    """
    evaluation = _hotcoco_evaluation(truth, detections)
    counts = evaluation.confusion_matrix(iou_thr=iou_threshold, max_det=max(1, len(detections)))["matrix"]
    return np.asarray(counts, dtype=np.int64)


def _hotcoco_evaluation(truth: AnnotationSet, detections: Sequence[Detection]) -> hotcoco.COCOeval:
    results = hotcoco.COCO(results_dict(truth, detections))
    return hotcoco.COCOeval(hotcoco.COCO(truth_dict(truth)), results, "bbox")


def _or_none(value: float) -> float | None:
    return float(value) if value > -1 else None


def _per_class(truth: AnnotationSet, evaluation: Any) -> dict[str, dict[str, float | None]]:
    precision = evaluation.eval["precision"][..., 0, -1]  # IoUs × recalls × classes, all areas, 100 detections
    column = {category_id: index for index, category_id in enumerate(evaluation.params.catIds)}
    return {
        category.name: {
            "AP": mean_precision(precision[:, :, column[category.id]]),
            "AP50": mean_precision(precision[0, :, column[category.id]]),
        }
        for category in truth.categories
    }


def mean_precision(precision: Any) -> float | None:
    """AP: the mean of a part of pycocotools' array of precisions, without −1, which stands for no object."""
    valid = precision[precision > -1]
    return float(np.mean(valid)) if valid.size else None


def _indexed(dataset: dict[str, Any]) -> Any:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def truth_dict(truth: AnnotationSet) -> dict[str, Any]:
    """The ground truth as COCO's JSON; difficult objects are crowds."""
    # New ids from 1, because pycocotools takes id 0 for "no match".
    annotations = [
        {
            "id": number,
            "image_id": item.image_id,
            "category_id": item.category_id,
            "bbox": list(item.bbox),
            "area": item.area,
            "iscrowd": int(item.iscrowd or item.difficult),
        }
        for number, item in enumerate(truth.annotations, start=1)
    ]
    return _images_and_categories(truth) | {"annotations": annotations}


def results_dict(truth: AnnotationSet, detections: Sequence[Detection]) -> dict[str, Any]:
    """The detections as COCO's JSON, with the images and categories of the ground truth."""
    # pycocotools' loadRes fails on an empty list.
    annotations = [
        {
            "id": number,
            "image_id": item.image_id,
            "category_id": item.category_id,
            "bbox": list(item.bbox),
            "area": item.bbox[2] * item.bbox[3],
            "iscrowd": 0,
            "score": item.score,
        }
        for number, item in enumerate(detections, start=1)
    ]
    return _images_and_categories(truth) | {"annotations": annotations}


def _images_and_categories(truth: AnnotationSet) -> dict[str, Any]:
    return {
        "images": [
            {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height}
            for image in truth.images
        ],
        "categories": [{"id": category.id, "name": category.name} for category in truth.categories],
    }
