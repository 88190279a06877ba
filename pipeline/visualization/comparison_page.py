"""`fcos compare --html`: a comparison of experiments on one self-contained page, with the images that changed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from pipeline.data.annotations import Image
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.images import open_image
from pipeline.errors import PipelineError, count_noun
from pipeline.evaluation import comparison, comparison_report
from pipeline.evaluation.comparison import ChangedImage, Comparison, Difference, is_error
from pipeline.evaluation.comparison_report import Report, Side
from pipeline.evaluation.error_kinds import ImageErrors, Verdict
from pipeline.visualization import pages
from pipeline.visualization.boxes import Color
from pipeline.visualization.inspection.marks import Mark, draw_view
from pipeline.visualization.thumbnails import data_uri

MAX_IMAGES = 12  # better ones, and as many worse ones, of each comparison
_SIDE = 480  # pixels, the longer side of a picture
_CORRECT: Color = (60, 200, 75)
_WRONG: Color = (245, 130, 48)
_MISSED: Color = (90, 210, 255)
_LONG_TABLE = 25  # classes, from which the table has two columns
_METRIC_NAMES = {
    "mAP50_11point": "mAP50, VOC2007",
    "mAP50_area": "mAP50, VOC2010",
    "operating_point/precision": "Precision",
    "operating_point/recall": "Recall",
    "operating_point/f1": "F1",
    "calibration_error": "Calibration error",
}

FindImage = Callable[[str], Path]


def write(report: Report, find_image: FindImage | None, path: Path) -> None:
    """Writes the page, whole or not at all.

    Args:
        find_image: the file of an image by its name in the ground truth. It raises PipelineError if the image is gone;
            then the page has the error instead of a picture. None if it is unknown where the images are.

    Raises:
        PipelineError: the file can't be written.
    """
    pages.write(render(report, find_image), path)


def render(report: Report, find_image: FindImage | None) -> str:
    """The HTML of the page."""
    pictures = _Pictures(report, find_image)
    content = {
        "title": " and ".join(side.title for side in report.sides[:2]) if len(report.sides) == 2 else "Experiments",
        "sides": report.sides,
        "params": comparison_report.differing_params(report.sides),
        "seeds": report.seeds,
        "images": len(report.truth.images),
        "summary": f"{count_noun(len(report.truth.images), 'image')}, "
        f"{count_noun(len(report.truth.annotations), 'object')}, "
        f"{count_noun(len(report.truth.categories), 'class', 'classes')}",
        "iou": comparison.IOU,
        "min_images": comparison.MIN_IMAGES,
        "colors": {name: f"rgb{color}" for name, color in _COLORS.items()},
        "comparisons": [_section(report, side, result, pictures) for side, result in report.pairs()],
    }
    return pages.render("comparison_page.html.jinja", content)


_COLORS = {"correct": _CORRECT, "wrong": _WRONG, "missed": _MISSED}


def _section(report: Report, side: Side, result: Comparison, pictures: "_Pictures") -> dict[str, Any]:
    first = report.sides[0]
    before, after = first.statistics(), side.statistics()
    metrics = {_metric_name(name): (name, found) for name, found in result.metrics.items()}
    deviations = {_metric_name(name): (before[name][1], after[name][1]) for name in result.metrics}
    classes = {name: ("AP", values["AP"]) for name, values in result.classes.items()}
    ranked = dict(sorted(classes.items(), key=lambda item: _rank(item[1][1])))
    return {
        "a": first,
        "b": side,
        "ap": result.metrics["AP"],
        "verdict": comparison_report.verdict("AP", result.metrics["AP"]),
        "metrics": _rows(metrics, deviations),
        "classes": _rows(ranked, {}),
        "long": len(classes) > _LONG_TABLE,
        "groups": [
            _group(name, images, side, pictures)
            for name, images in (("better", result.better), ("worse", result.worse))
        ],
        "equal": len(report.truth.images) - len(result.better) - len(result.worse),
    }


def _rank(found: Difference) -> tuple[bool, float]:
    """The largest gain first, and what has no value last."""
    return found.difference is None, -(found.difference or 0)


def _metric_name(name: str) -> str:
    kind = name.removeprefix("errors/")
    return _METRIC_NAMES.get(name, name) if kind == name else f"AP50 lost: {kind.replace('_', ' ')}"


def _rows(
    differences: Mapping[str, tuple[str, Difference]],
    deviations: Mapping[str, tuple[float | None, float | None]],
) -> list[dict[str, Any]]:
    """The rows of a table: numbers as text, and the positions of the interval's marks in percent of the chart."""
    # What has no interval may differ by anything, because of few objects: it does not stretch the chart.
    marks = [_marks(found) for _, found in differences.values()]
    sure = [values for values in marks if len(values) > 1] or marks
    reach = max((abs(value) for values in sure for value in values), default=0) or 1
    return [
        {
            "name": name,
            "a": _format(found.a, deviations.get(name, (None, None))[0]),
            "b": _format(found.b, deviations.get(name, (None, None))[1]),
            "difference": _points(found.difference),
            "interval": f"{_points(found.low)} … {_points(found.high)}" if found.low is not None else "",
            "verdict": comparison_report.verdict(metric, found),
            "marks": [round(50 + 50 * value / reach, 2) for value in _marks(found) if abs(value) <= reach],
            "lower_is_better": is_error(metric),
        }
        for name, (metric, found) in differences.items()
    ]


def _marks(found: Difference) -> list[float]:
    """The difference and the bounds of its interval, as far as they are known."""
    return [value for value in (found.difference, found.low, found.high) if value is not None]


def _format(value: float | None, deviation: float | None) -> str:
    """In points of 100."""
    if value is None:
        return "—"
    return f"{100 * value:.1f}" if deviation is None else f"{100 * value:.1f} ± {100 * deviation:.1f}"


def _points(value: float | None) -> str:
    return "—" if value is None else f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "−")


def _group(name: str, images: Sequence[ChangedImage], side: Side, pictures: "_Pictures") -> dict[str, Any]:
    shown = images[:MAX_IMAGES]
    return {"name": name, "total": len(images), "images": [pictures.pair(image, side) for image in shown]}


@dataclass(frozen=True)
class _Picture:
    label: str  # of the side
    errors: str  # what is wrong in the image
    data: str  # a data URI; empty without a picture
    problem: str = ""


class _Pictures:
    """Draws an image with the detections of an experiment of each side."""

    def __init__(self, report: Report, find_image: FindImage | None) -> None:
        self.first, self.find_image = report.sides[0], find_image
        self.images = {image.id: image for image in report.truth.images}
        self.names = {category.id: category.name for category in report.truth.categories}

    def pair(self, changed: ChangedImage, side: Side) -> dict[str, Any]:
        image = self.images[changed.image_id]
        mean = ", means over seeds" if len(self.first.names) > 1 or len(side.names) > 1 else ""
        return {
            "file": image.file_name,
            "change": f"{changed.a:.3g} → {changed.b:.3g} {'error' if changed.b == 1 else 'errors'}{mean}",
            "pictures": [self._draw(image, self.first, changed.a), self._draw(image, side, changed.b)],
        }

    def _draw(self, image: Image, side: Side, errors_of_side: float) -> _Picture:
        """The picture of the experiment whose number of errors is closest to the mean of its side."""
        candidates = [evaluation.errors[image.id] for evaluation in side.evaluations]
        chosen = min(range(len(candidates)), key=lambda index: abs(candidates[index].count - errors_of_side))
        errors = candidates[chosen]
        label = side.label if len(side.names) == 1 else f"{side.label} ({side.names[chosen]})"
        if self.find_image is None:
            return _Picture(
                label, describe(errors), "", "The folder with the images is unknown: give it with --images."
            )
        try:
            size = (image.width, image.height) if image.width and image.height else None
            picture = open_image(self.find_image(image.file_name), size)
        except PipelineError as error:
            return _Picture(label, describe(errors), "", str(error))
        return _Picture(label, describe(errors), data_uri(draw(picture, errors, self.names)))


def describe(errors: ImageErrors) -> str:
    """The errors of an image by kind, such as `2 missed, 1 wrong class`."""
    kinds = Counter(verdict.kind for verdict in errors.verdicts)
    counts = {"missed": len(errors.missed)} | {
        kind.replace("_", " "): kinds[kind] for kind in ("wrong_class", "poor_box", "duplicate", "background")
    }
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no errors"


def draw(picture: PIL.Image.Image, errors: ImageErrors, names: Mapping[int, str]) -> PIL.Image.Image:
    """The image with its correct detections, and its errors with labels; missed objects are dashed."""
    wrong = [verdict for verdict in errors.verdicts if verdict.kind != "correct"]
    found = [
        *(Mark(xywh_to_xyxy(item.bbox), _MISSED, names[item.category_id], dashed=True) for item in errors.missed),
        *(Mark(xywh_to_xyxy(verdict.detection.bbox), _WRONG, _label(verdict, names)) for verdict in wrong),
        *(Mark(xywh_to_xyxy(verdict.detection.bbox), _CORRECT) for verdict in errors.of("correct")),
    ]
    return draw_view(picture, (0, 0, *picture.size), found, _SIDE)


def _label(verdict: Verdict, names: Mapping[int, str]) -> str:
    return f"{names[verdict.detection.category_id]} {verdict.detection.score:.2f}"
