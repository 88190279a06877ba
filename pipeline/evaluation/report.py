"""All metrics of an evaluation, for metrics/evaluate.json."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

from fcos.config import InputSize
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, object_sizes, operating_point, resampling, voc
from pipeline.evaluation.coco import CocoMetrics
from pipeline.evaluation.diagnostics import count_objects_beyond_max_detections, diagnose
from pipeline.evaluation.matches import Matches, class_names
from pipeline.evaluation.operating_point import OperatingPoints, Point
from pipeline.evaluation.resampling import Interval, interval

NO_POINT = {field.name: None for field in fields(Point)}  # of a class without a threshold


@dataclass(frozen=True)
class Report:
    """All results of an evaluation; the metrics are explained at `evaluate`."""

    metrics: dict[str, Any]
    operating_points: OperatingPoints
    matches: Matches


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Pauses the search for cycles, which takes most of the time where millions of small objects are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@paused_garbage_collection()
def evaluate(
    truth: AnnotationSet,
    detections: Sequence[Detection],
    *,
    chosen: OperatingPoints | None = None,
    input_size: InputSize | None = None,
    max_detections: int | None = None,
) -> Report:
    """Computes all metrics, for JSON: fractions of 1 with six decimals, null for what has no meaning for this data.

    The keys of the metrics:

        - "coco": COCO's twelve numbers; "voc": mAP50_11point and mAP50_area
        - "coco_raised_limit": {max_detections, AP, …} if more than 100 detections of an image are kept, else None
        - "per_class": {name: {objects, AP, AP50, AP_low, AP_high, and score, precision, recall and f1 at the operating
          point}}, where objects are those to detect, without crowds and difficult ones
        - "intervals": {AP and AP50: {low, high}}, see `resampling`
        - "by_size": {bin: {objects, AP, AP50}}, see `object_sizes`
        - "errors", "calibration_error", "objects_beyond_limit", "highest_possible_AP": see `diagnose`
        - "objects_beyond_max_detections": objects beyond the detections of an image that are kept, of all classes
        - "operating_point": see `operating_point`, with the means over classes
        - "images", "objects" (annotations, including crowds and difficult objects), "detections": numbers

    Args:
        chosen: the operating points that were chosen on other images; by default, they are chosen on these.
        input_size: how the detector resizes images; None: sizes of objects are in pixels of the stored images.
        max_detections: how many detections of an image the detector keeps; None: unknown.
    """
    coco_metrics, voc_metrics = coco.evaluate(truth, detections), voc.evaluate(truth, detections)
    matches = Matches.of(coco_metrics.evaluation)
    overall, by_class = _intervals(coco_metrics, matches, truth)
    points = operating_point.measure(matches, truth, chosen) if chosen else operating_point.choose(matches, truth)
    sized = object_sizes.evaluate(truth, detections, input_size)
    counts = matches.objects.sum(axis=1).astype(int).tolist()
    metrics = {
        "coco": coco_metrics.values,
        "coco_raised_limit": _raised_limit(truth, detections, max_detections),
        "voc": {"mAP50_11point": voc_metrics.mAP50_11point, "mAP50_area": voc_metrics.mAP50_area},
        "per_class": _per_class(coco_metrics, by_class, points, dict(zip(class_names(truth), counts, strict=True))),
        "intervals": {name: {"low": found.low, "high": found.high} for name, found in overall.items()},
        "by_size": sized.summarize(),
        **diagnose(truth, detections, sized.evaluation),
        "objects_beyond_max_detections": max_detections and count_objects_beyond_max_detections(truth, max_detections),
        "operating_point": points.summary(),
        "images": len(truth.images),
        "objects": len(truth.annotations),
        "detections": len(detections),
    }
    return Report(_rounded(metrics), points, matches)


def _per_class(
    metrics: CocoMetrics, intervals: Mapping[str, Interval], points: OperatingPoints, objects: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "objects": objects[name],
            **values,
            "AP_low": intervals[name].low,
            "AP_high": intervals[name].high,
            **(asdict(point) if (point := points.classes[name]) else NO_POINT),
        }
        for name, values in metrics.per_class.items()
    }


def _raised_limit(
    truth: AnnotationSet, detections: Sequence[Detection], max_detections: int | None
) -> dict[str, Any] | None:
    if max_detections is None or max_detections <= coco.MAX_DETECTIONS:
        return None
    return {"max_detections": max_detections, **coco.fast_ap(truth, detections, max_detections)}


def _intervals(
    metrics: CocoMetrics, matches: Matches, truth: AnnotationSet
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """The intervals of AP and AP50, and of the AP of each class."""
    draws = resampling.resample(matches)
    by_class = resampling.mean(draws, axis=2)
    return resampling.intervals_of_means(matches, draws), {
        name: interval(values, metrics.per_class[name]["AP"], objects)
        for name, values, objects in zip(class_names(truth), by_class.T, matches.objects, strict=True)
    }


def _rounded(value: Any) -> Any:
    # In pycocotools' arithmetic, a perfect score is 0.9999999999999998.
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    return round(value, 6) if isinstance(value, float) else value
