"""The worst images of each kind of error, drawn with the boxes of the errors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import PIL.Image

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.images import open_image
from pipeline.errors import PipelineError
from pipeline.evaluation.error_kinds import ImageErrors, Verdict
from pipeline.visualization.boxes import Box, Color
from pipeline.visualization.fonts import has_font
from pipeline.visualization.inspection import marks
from pipeline.visualization.inspection.marks import Mark

SIDE = 480  # pixels, the longer side of a picture
TRUTH_COLOR: Color = (90, 210, 255)  # blue and orange are distinct for people who can't tell red from green
DETECTION_COLOR: Color = (245, 130, 48)
LEGEND = "blue and dashed: ground truth, orange: detections; the errors in question are bright and labeled"
_MAX_PALE = 300  # boxes of an image that are drawn besides those in question

Error = Verdict | Annotation  # a wrong detection, or a missed object


@dataclass(frozen=True)
class Kind:
    """A kind of error."""

    title: str
    singular: str
    plural: str
    errors: Callable[[ImageErrors], Sequence[Error]]  # the errors of this kind in an image
    mixed: bool = False  # whether these differ in `Verdict.kind`, which is shown then


KINDS = {
    "most_certain": Kind(
        "Most certain errors of any kind, highest score first", "wrong detection", "wrong detections",
        lambda e: [verdict for verdict in e.verdicts if verdict.kind != "correct"], mixed=True,
    ),
    "false_positives": Kind(
        "False positives on background, highest score first", "false positive", "false positives",
        lambda e: e.of("background"),
    ),
    "missed_objects": Kind("Missed objects, largest first", "missed object", "missed objects", lambda e: e.missed),
    "wrong_class": Kind(
        "Wrong class, highest score first", "wrong class", "wrong classes", lambda e: e.of("wrong_class")
    ),
    "poor_boxes": Kind("Poor boxes, highest score first", "poor box", "poor boxes", lambda e: e.of("poor_box")),
    "duplicates": Kind("Duplicates, highest score first", "duplicate", "duplicates", lambda e: e.of("duplicate")),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An image with errors of a kind."""

    image: Image
    picture: PIL.Image.Image
    errors: tuple[str, ...]  # in words, the worst first
    view: str  # which part of the image is shown; empty for the whole image


def worst_first(truth: AnnotationSet, errors: Mapping[int, ImageErrors], kind: Kind) -> list[Image]:
    """The images with errors of this kind, worst first; images with equal errors keep the order of the split."""
    severity = {image: max(map(_severity, kind.errors(found)), default=None) for image, found in errors.items()}
    ranked = [(-worst, image) for image in truth.images if (worst := severity[image.id]) is not None]
    return [image for _, image in sorted(ranked, key=lambda pair: pair[0])]


def _severity(error: Error) -> float:
    """The score of a wrong detection, or the area of a missed object."""
    return error.detection.score if isinstance(error, Verdict) else error.bbox[2] * error.bbox[3]


@dataclass(frozen=True)
class ClassLabels:
    """Names of classes as pictures show them: `#12`, counted from 1, for a name with letters that no font here has."""

    categories: tuple[Category, ...]

    @cached_property
    def by_id(self) -> dict[int, str]:
        return {
            category.id: category.name if has_font(category.name) else f"#{number}"
            for number, category in enumerate(self.categories, start=1)
        }

    @property
    def legend(self) -> dict[str, str]:
        """The names that pictures show as numbers, by number."""
        return {
            label: category.name for category in self.categories if (label := self.by_id[category.id]) != category.name
        }


class CasePictures:
    """Draws images with their ground truth and detections."""

    def __init__(self, truth: AnnotationSet, errors: Mapping[int, ImageErrors], image_folder: Path) -> None:
        self.annotations, self.errors, self.image_folder = truth.by_image(), errors, image_folder
        self.names = {category.id: isolate(category.name) for category in truth.categories}
        self.labels = ClassLabels(truth.categories)

    def draw(self, image: Image, kind: Kind) -> Case:
        """The image, or the surroundings of its worst error if that is small, with the errors of a kind bright.

        Raises:
            PipelineError: the image is missing or can't be decoded.
        """
        errors = sorted(kind.errors(self.errors[image.id]), key=_severity, reverse=True)
        view = marks.choose_view((image.width, image.height), _surrounding(errors[0]))
        found = [*self._in_question(errors), *self._others(image, errors)]
        picture = marks.draw_view(open_stored_image(self.image_folder, image), view, found, SIDE)
        described = (self._describe(error, with_kind=kind.mixed) for error in errors)
        return Case(image, picture, tuple(described), describe_view(image, view))

    def _in_question(self, errors: Sequence[Error]) -> Iterator[Mark]:
        """The wrong detection of each error and the object that it was compared with, or the missed object."""
        labeled: set[int] = set()
        for error in errors:
            if isinstance(error, Verdict):
                yield Mark(xywh_to_xyxy(error.detection.bbox), DETECTION_COLOR, self._label(error))
            annotation = error.annotation if isinstance(error, Verdict) else error
            if annotation and annotation.id not in labeled:
                labeled.add(annotation.id)
                label = self.labels.by_id[annotation.category_id]
                yield Mark(xywh_to_xyxy(annotation.bbox), TRUTH_COLOR, label, dashed=True)

    def _others(self, image: Image, errors: Sequence[Error]) -> list[Mark]:
        wrong = {id(error) for error in errors}
        involved = {
            annotation.id
            for error in errors
            if (annotation := error.annotation if isinstance(error, Verdict) else error) is not None
        }
        objects = [
            Mark(xywh_to_xyxy(item.bbox), TRUTH_COLOR, in_question=False, dashed=True)
            for item in self.annotations[image.id]
            if item.id not in involved
        ]
        detections = [
            Mark(xywh_to_xyxy(verdict.detection.bbox), DETECTION_COLOR, in_question=False)
            for verdict in self.errors[image.id].verdicts
            if id(verdict) not in wrong
        ]
        return objects[:_MAX_PALE] + detections[:_MAX_PALE]

    def _label(self, verdict: Verdict) -> str:
        return f"{self.labels.by_id[verdict.detection.category_id]} {verdict.detection.score:.2f}"

    def _describe(self, error: Error, *, with_kind: bool) -> str:
        """Such as `dog 0.87, in truth cat`; with the kind, `dog 0.87, wrong class, in truth cat`."""
        if not isinstance(error, Verdict):
            return f"{self.names[error.category_id]}, {error.bbox[2]:.0f}×{error.bbox[3]:.0f} pixels"
        text = f"{self.names[error.detection.category_id]} {error.detection.score:.2f}"
        if with_kind:
            text += f", {error.kind.replace('_', ' ')}"
        match error.kind:
            case "wrong_class" if error.annotation:
                return f"{text}, in truth {self.names[error.annotation.category_id]}"
            case "poor_box":
                return f"{text}, IoU {error.iou:.2f}"
            case _:
                return text


def isolate(name: str) -> str:
    """The name between Unicode's marks of isolation, so that one written from the right doesn't reorder its line."""
    return f"\u2068{name}\u2069"


def _surrounding(error: Error) -> Box:
    """The box around a wrong detection and the object that it was compared with."""
    if not isinstance(error, Verdict):
        return xywh_to_xyxy(error.bbox)
    x1, y1, x2, y2 = xywh_to_xyxy(error.detection.bbox)
    if error.annotation is None:
        return x1, y1, x2, y2
    a1, b1, a2, b2 = xywh_to_xyxy(error.annotation.bbox)
    return min(x1, a1), min(y1, b1), max(x2, a2), max(y2, b2)


def open_stored_image(folder: Path, image: Image) -> PIL.Image.Image:
    """An image of the data set.

    Raises:
        PipelineError: it is missing, can't be decoded, or its size isn't that of the annotations.
    """
    try:
        return open_image(folder / image.file_name, (image.width, image.height))
    except PipelineError as error:
        raise PipelineError(f"{error}; run `dvc repro -f download`") from None


def describe_view(image: Image, view: Box) -> str:
    width, height = view[2] - view[0], view[3] - view[1]
    if (width, height) == (image.width, image.height):
        return ""
    return f"enlarged: {width:.0f}×{height:.0f} of {image.width}×{image.height} pixels"
