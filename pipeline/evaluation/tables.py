"""Evaluation metrics as plain-text tables, in the layouts of pycocotools and VOC."""

from collections.abc import Iterator, Mapping
from textwrap import indent
from typing import Any

from pipeline.errors import format_table
from pipeline.evaluation.voc import VocMetrics

# The columns of pycocotools' twelve lines: kind of average, IoU, area, maximum number of detections per image.
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


def metric_table(report: Mapping[str, Any], metric: str) -> str:
    """The metrics of a report: for `coco` in pycocotools' layout with the AP of each class, for `voc` the two mAPs.

    Raises:
        ValueError: the metric is unknown.
    """
    match metric:
        case "coco":
            classes = {name: (values["AP"], values["AP50"]) for name, values in report["per_class"].items()}
            return "\n".join([*_coco_lines(report["coco"]), "", _class_table(("AP", "AP50"), classes)])
        case "voc":
            return "\n".join(_voc_lines(report["voc"]))
        case _:
            raise ValueError(f"metric: {metric!r} is unknown; known metrics: coco, voc")


def voc_class_table(metrics: VocMetrics) -> str:
    """The VOC average precision of each class, by both protocols."""
    classes = {
        name: (curve.average_precision_11point(), curve.average_precision_area())
        for name, curve in metrics.per_class.items()
    }
    return _class_table(("11-point", "area"), classes)


def _coco_lines(values: Mapping[str, float | None]) -> Iterator[str]:
    for name, (kind, iou, area, max_detections) in _COCO_LINES.items():
        title = f"Average {kind:<9}  {'(AP)' if kind == 'Precision' else '(AR)'}"
        yield f" {title} @[ IoU={iou:<9} | area={area:>6} | maxDets={max_detections:>3} ] = {_format(values[name])}"


def _voc_lines(values: Mapping[str, float | None]) -> Iterator[str]:
    for name, protocol in _VOC_LINES.items():
        yield f" Mean Average Precision (mAP) @[ IoU=0.50 | {protocol:<23} ] = {_format(values[name])}"


def _class_table(columns: tuple[str, str], classes: Mapping[str, tuple[float | None, float | None]]) -> str:
    rows = [(name, _format(first), _format(second)) for name, (first, second) in classes.items()]
    return indent(format_table([("class", *columns), *rows], "lrr"), " ")


def _format(value: float | None) -> str:
    return "-1.000" if value is None else f"{value:.3f}"  # pycocotools prints −1 if there is no object
