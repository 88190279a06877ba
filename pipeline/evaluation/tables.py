"""Evaluation metrics as plain-text tables, in the layouts of pycocotools and VOC."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import indent
from typing import Any

from pipeline.errors import count_noun, format_table
from pipeline.evaluation.coco import MAX_DETECTIONS
from pipeline.evaluation.resampling import FEW_OBJECTS
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


def metric_table(report: Mapping[str, Any], metric: str, *, sizes_of: str = "the image") -> str:
    """The metrics of a report: for `voc` the two mAPs, for `coco` all others, the twelve in pycocotools' layout.

    Args:
        sizes_of: what the sizes of objects are in pixels of.

    Raises:
        ValueError: the metric is unknown.
    """
    match metric:
        case "coco":
            blocks = ("\n".join(_coco_lines(report["coco"])), *_raised_limit_block(report), _class_rows(report))
            tables = (
                _size_table(report["by_size"], sizes_of),
                _error_table(report["errors"]),
                "\n".join(_closing_lines(report)),
            )
            return "\n\n".join([*blocks, *tables])
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


def _coco_lines(values: Mapping[str, float | None], limit: int | None = None) -> Iterator[str]:
    for name, (kind, iou, area, max_detections) in _COCO_LINES.items():
        if limit and max_detections == MAX_DETECTIONS:
            name, max_detections = name.replace(str(MAX_DETECTIONS), str(limit)), limit
        title = f"Average {kind:<9}  {'(AP)' if kind == 'Precision' else '(AR)'}"
        yield f" {title} @[ IoU={iou:<9} | area={area:>6} | maxDets={max_detections:>3} ] = {_format(values[name])}"


def _voc_lines(values: Mapping[str, float | None]) -> Iterator[str]:
    for name, protocol in _VOC_LINES.items():
        yield f" Mean Average Precision (mAP) @[ IoU=0.50 | {protocol:<23} ] = {_format(values[name])}"


def _raised_limit_block(report: Mapping[str, Any]) -> Iterator[str]:
    if raised := report["coco_raised_limit"]:
        limit = raised["max_detections"]
        title = f" With up to {limit} detections of a class in an image (postprocess.max_detections), by hotcoco:"
        yield "\n".join([title, *_coco_lines(raised, limit)])


def _class_rows(report: Mapping[str, Any]) -> str:
    """AP of each class and of all, with the bounds of its interval; precision and recall at the operating point."""
    columns = ("AP", "AP_low", "AP_high", "AP50", "score", "precision", "recall")
    rows = [
        (name, str(values["objects"]), *(_format(values[column]) for column in columns))
        for name, values in report["per_class"].items()
    ]
    bounds, point = report["intervals"]["AP"], report["operating_point"]
    objects = str(sum(values["objects"] for values in report["per_class"].values()))
    # No score: precision and recall are the means over classes, each at its own threshold.
    means = [report["coco"]["AP"], bounds["low"], bounds["high"], report["coco"]["AP50"], None]
    everything = ("(all)", objects, *map(_format, [*means, point["precision"], point["recall"]]))
    titles = ("class", "objects", "AP", "95 % from", "to", "AP50", "at score", "precision", "recall")
    return indent(format_table([titles, *rows, everything], "l" + "r" * (len(titles) - 1)), " ")


def _size_table(sizes: Mapping[str, Mapping[str, Any]], sizes_of: str) -> str:
    rows = [
        (name.replace("-", "–"), str(values["objects"]), _format(values["AP"]), _format(values["AP50"]))
        for name, values in sizes.items()
    ]
    return indent(format_table([(f"size in pixels of {sizes_of}", "objects", "AP", "AP50"), *rows], "lrrr"), " ")


def _error_table(errors: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (kind.replace("_", " "), _format(error["AP50_cost"]), str(error["count"])) for kind, error in errors.items()
    ]
    return indent(format_table([("error", "costs AP50", "number"), *rows], "lrr"), " ")


def _closing_lines(report: Mapping[str, Any]) -> Iterator[str]:
    bounds = [
        f"{name} {_format(found['low'])} to {_format(found['high'])}"
        for name, found in report["intervals"].items()
        if found["low"] is not None
    ]
    if bounds:
        yield f" 95 % intervals: {', '.join(bounds)}"
    point = report["operating_point"]
    if point["score"] is not None:
        yield (
            f" Best F1 with scores of at least {_format(point['score'])} (one threshold for all classes); with one for "
            f"each class, means over classes: precision {_format(point['precision'])}, recall "
            f"{_format(point['recall'])}, F1 {_format(point['f1'])}"
        )
    yield from _few_objects(report["per_class"])
    yield f" Expected calibration error: {_format(report['calibration_error'])}"
    if beyond := report["objects_beyond_limit"]:
        yield (
            f" {count_noun(beyond, 'object')} beyond COCO's limit of {MAX_DETECTIONS} detections of a class in an "
            f"image: AP can't exceed {_format(report['highest_possible_AP'])}"
        )
    if beyond := report["objects_beyond_max_detections"]:
        yield f" {count_noun(beyond, 'object')} beyond postprocess.max_detections, the most detections in an image"


def _few_objects(per_class: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    counts = [values["objects"] for values in per_class.values() if values["objects"]]
    if few := sum(count < FEW_OBJECTS for count in counts):
        has, its, interval = ("has", "its", "interval is") if few == 1 else ("have", "their", "intervals are")
        yield (
            f" {few} of {count_noun(len(counts), 'class', 'classes')} {has} fewer than {FEW_OBJECTS} objects: {its} AP "
            f"is likely too high, and the {interval} wide"
        )


def _class_table(columns: Sequence[str], classes: Mapping[str, Sequence[float | None]]) -> str:
    rows = [(name, *map(_format, values)) for name, values in classes.items()]
    return indent(format_table([("class", *columns), *rows], "l" + "r" * len(columns)), " ")


def _format(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"
