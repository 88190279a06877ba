"""All numbers of one evaluation together, for metrics/evaluate.json and for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, voc
from pipeline.evaluation.voc import VocMetrics

# How pycocotools words its twelve lines: average of what, IoU, area, most detections of an image.
_COCO_LINES = {
    "AP": ("Precision", "0.50:0.95", "all", 100),
    "AP50": ("Precision", "0.50", "all", 100),
    "AP75": ("Precision", "0.75", "all", 100),
    "APs": ("Precision", "0.50:0.95", "small", 100),
    "APm": ("Precision", "0.50:0.95", "medium", 100),
    "APl": ("Precision", "0.50:0.95", "large", 100),
    "AR1": ("Recall", "0.50:0.95", "all", 1),
    "AR10": ("Recall", "0.50:0.95", "all", 10),
    "AR100": ("Recall", "0.50:0.95", "all", 100),
    "ARs": ("Recall", "0.50:0.95", "small", 100),
    "ARm": ("Recall", "0.50:0.95", "medium", 100),
    "ARl": ("Recall", "0.50:0.95", "large", 100),
}
_VOC_LINES = {"mAP50_11point": "11-point, VOC2007", "mAP50_area": "area, VOC2010 and later"}


def evaluate(truth: AnnotationSet, detections: Sequence[Detection]) -> dict[str, Any]:
    """COCO's and VOC's numbers, as JSON has them: fractions of 1 to six places, null where no object could tell.

    Returns:
        {"coco": {AP, …}, "voc": {mAP50_11point, mAP50_area}, "per_class": {name: {AP, AP50}}, "images",
        "objects", "detections"}; `objects` counts every annotation, crowds and difficult ones too.
    """
    by_coco, by_voc = coco.evaluate(truth, detections), voc.evaluate(truth, detections)
    return {
        "coco": _rounded(by_coco.numbers),
        "voc": _rounded({"mAP50_11point": by_voc.mAP50_11point, "mAP50_area": by_voc.mAP50_area}),
        "per_class": {name: _rounded(numbers) for name, numbers in by_coco.per_class.items()},
        "images": len(truth.images),
        "objects": len(truth.annotations),
        "detections": len(detections),
    }


def table(report: Mapping[str, Any], metric: str) -> str:
    """A report's numbers as the table that people know: `metric` is coco (pycocotools' layout) or voc."""
    match metric:
        case "coco":
            return "\n".join(_coco_lines(report))
        case "voc":
            return "\n".join(_voc_lines(report["voc"]))
        case _:
            raise ValueError(f"metric {metric!r} is neither coco nor voc")


def voc_classes(metrics: VocMetrics) -> str:
    """A table of each class's VOC average precision, by both protocols."""
    rows = {
        name: (curve.average_precision_11point(), curve.average_precision_area())
        for name, curve in metrics.per_class.items()
    }
    return "\n".join(_class_lines(("11-point", "area"), rows))


def _coco_lines(report: Mapping[str, Any]) -> Iterator[str]:
    for name, (kind, iou, area, most) in _COCO_LINES.items():
        title = f"Average {kind:<9}  {'(AP)' if kind == 'Precision' else '(AR)'}"
        yield f" {title} @[ IoU={iou:<9} | area={area:>6} | maxDets={most:>3} ] = {_shown(report['coco'][name])}"
    yield ""
    rows = {name: (numbers["AP"], numbers["AP50"]) for name, numbers in report["per_class"].items()}
    yield from _class_lines(("AP", "AP50"), rows)


def _voc_lines(numbers: Mapping[str, float | None]) -> Iterator[str]:
    for name, protocol in _VOC_LINES.items():
        yield f" Mean Average Precision (mAP) @[ IoU=0.50 | {protocol:<23} ] = {_shown(numbers[name])}"


def _class_lines(heads: tuple[str, str], rows: Mapping[str, tuple[float | None, float | None]]) -> Iterator[str]:
    width = max(len("class"), *(len(name) for name in rows))
    yield f" {'class':<{width}}  {heads[0]:>8}  {heads[1]:>8}"
    for name, (first, second) in rows.items():
        yield f" {name:<{width}}  {_shown(first):>8}  {_shown(second):>8}"


def _shown(value: float | None) -> str:
    return "-1.000" if value is None else f"{value:.3f}"  # as pycocotools prints what nothing could tell


def _rounded(numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    # A perfect score is 0.9999999999999998 in pycocotools' arithmetic.
    return {name: None if value is None else round(value, 6) for name, value in numbers.items()}
