"""All metrics of an evaluation, for metrics/evaluate.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, voc


def evaluate(truth: AnnotationSet, detections: Sequence[Detection]) -> dict[str, Any]:
    """COCO and VOC metrics for JSON: fractions of 1 with six decimals, null if there is no object to evaluate.

    Returns:
        {"coco": {AP, …}, "voc": {mAP50_11point, mAP50_area}, "per_class": {name: {AP, AP50}}, "images",
        "objects", "detections"}. `objects` is the number of annotations, including crowds and difficult objects.
    """
    coco_metrics, voc_metrics = coco.evaluate(truth, detections), voc.evaluate(truth, detections)
    return {
        "coco": _rounded(coco_metrics.values),
        "voc": _rounded({"mAP50_11point": voc_metrics.mAP50_11point, "mAP50_area": voc_metrics.mAP50_area}),
        "per_class": {name: _rounded(values) for name, values in coco_metrics.per_class.items()},
        "images": len(truth.images),
        "objects": len(truth.annotations),
        "detections": len(detections),
    }


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    # In pycocotools' arithmetic, a perfect score is 0.9999999999999998.
    return {name: None if value is None else round(value, 6) for name, value in values.items()}
