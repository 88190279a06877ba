"""Candidates for label errors on one self-contained page: pictures of the labels in question with the proposals."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import PIL.Image

from pipeline.analysis.label_errors import KINDS, Candidate, Kind
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.images import open_image
from pipeline.errors import PipelineError
from pipeline.visualization import pages
from pipeline.visualization.boxes import Box, Color, draw_outline, draw_tag
from pipeline.visualization.thumbnails import data_uri

MAX_SHOWN = 60  # candidates of each kind
LABEL_COLOR: Color = (60, 200, 75)
PROPOSAL_COLOR: Color = (245, 130, 48)
OTHER_COLOR: Color = (255, 255, 255)
TITLES: Mapping[Kind, tuple[str, str]] = {
    "missing": ("Missing labels", "The detector found an object that has no label."),
    "spurious": ("Spurious labels", "The detector found nothing at a label, though it finds most objects like it."),
    "wrong_class": ("Wrong classes", "The detector found an object of another class at a label."),
    "poor_box": ("Poor boxes", "The detector found a labeled object, with another box."),
}
_SIDE = 320  # pixels of a picture
_CONTEXT = 2.5  # side of the part of the image that is shown, in longer sides of the boxes in question
_MIN_PART = 0.35  # of the image's shorter side
_TEXT_SIZE = 14.0


@dataclass(frozen=True)
class Picture:
    data: str  # a data URI; empty if the image can't be read
    caption: str
    file_name: str
    rank_score: str
    problem: str = ""


def write(
    path: Path, truth: Mapping[str, AnnotationSet], candidates: Sequence[Candidate], image_folder: Path, *, scope: str
) -> None:
    """Writes the page, whole or not at all, with the first candidates of each kind.

    Args:
        truth: the labels of each split.
        image_folder: the folder that the file names in `truth` are relative to.
        scope: what was judged, for people.

    Raises:
        PipelineError: the file can't be written.
    """
    drawing = _Drawing(truth, image_folder)
    sections = []
    with ThreadPoolExecutor() as pool:
        for kind in KINDS:
            found = [candidate for candidate in candidates if candidate.kind == kind]
            title, meaning = TITLES[kind]
            shown = list(pool.map(drawing.picture, found[:MAX_SHOWN]))
            sections.append({"kind": kind, "title": title, "meaning": meaning, "total": len(found), "pictures": shown})
    colors = {"label": LABEL_COLOR, "proposal": PROPOSAL_COLOR, "other": OTHER_COLOR}
    content = {"scope": scope, "sections": sections, "colors": {name: f"rgb{color}" for name, color in colors.items()}}
    pages.write(pages.render("label_error_page.html.jinja", content), path)


class _Drawing:
    """Draws candidates with the labels around them."""

    def __init__(self, truth: Mapping[str, AnnotationSet], image_folder: Path) -> None:
        self.image_folder = image_folder
        self.names = {category.id: category.name for split in truth.values() for category in split.categories}
        self.images = {(name, image.id): image for name, split in truth.items() for image in split.images}
        self.labels = {
            (name, image): labels for name, split in truth.items() for image, labels in split.by_image().items()
        }

    def picture(self, candidate: Candidate) -> Picture:
        key = candidate.split, candidate.image_id
        labels = self.labels[key]
        label = next((item for item in labels if item.id == candidate.annotation_id), None)
        caption, name = self._caption(candidate, label), PurePosixPath(candidate.file_name).name
        data, problem = "", ""
        try:
            data = data_uri(self._draw(self.images[key], candidate, label, labels))
        except PipelineError as error:
            problem = str(error)
        return Picture(data, caption, name, f"{candidate.rank_score:.2f}", problem)

    def _caption(self, candidate: Candidate, label: Annotation | None) -> str:
        name = self.names[label.category_id] if label else ""
        match candidate.kind:
            case "missing":
                return f"no label; found: {candidate.category}"
            case "wrong_class":
                return f"label: {name}; found: {candidate.category}"
            case "poor_box":
                return f"label: {name}; found with another box"
            case "spurious":
                return f"label: {name}; nothing found"

    def _draw(
        self, image: Image, candidate: Candidate, label: Annotation | None, labels: Sequence[Annotation]
    ) -> PIL.Image.Image:
        """The part of the image around the boxes in question."""
        picture = open_image(self.image_folder / image.file_name, (image.width, image.height))
        marks: list[tuple[Box, str, Color]] = []
        if label:
            marks.append((xywh_to_xyxy(label.bbox), self.names[label.category_id], LABEL_COLOR))
        if candidate.bbox or candidate.category:
            box = candidate.bbox or (label.bbox if label else None)
            name = candidate.category or ""
            marks += [(xywh_to_xyxy(box), name, PROPOSAL_COLOR)] if box else []
        part = _part([box for box, _, _ in marks], picture.size)
        scale = _SIDE / max(part[2] - part[0], part[3] - part[1])
        size = max(1, round((part[2] - part[0]) * scale)), max(1, round((part[3] - part[1]) * scale))
        canvas = picture.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC, box=part)
        for item in labels:
            if item is not label:
                draw_outline(canvas, _placed(xywh_to_xyxy(item.bbox), part, scale), OTHER_COLOR, width=1)
        for number, (box, _, color) in enumerate(marks):
            # A proposed class has the label's box: dashes show both colors.
            dashed = number > 0 and candidate.bbox is None
            draw_outline(canvas, _placed(box, part, scale), color, width=3, dashed=dashed)
        for box, text, color in marks:
            left, top, _, bottom = _placed(box, part, scale)
            below = color == PROPOSAL_COLOR and label is not None
            if text:
                position = (left, bottom + 1.6 * _TEXT_SIZE) if below else (left, top)
                draw_tag(canvas, position, text, color, _TEXT_SIZE)
        return canvas


def _part(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an image to show, x1, y1, x2, y2: a square around the boxes, moved and cut to be inside the image."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    side = max(_CONTEXT * max(right - left, bottom - top), _MIN_PART * min(size))
    spans = []
    for low, high, length in ((left, right, size[0]), (top, bottom, size[1])):
        start = min(max(0.0, (low + high - side) / 2), max(0.0, length - side))
        spans.append((start, min(start + side, float(length))))
    (x1, x2), (y1, y2) = spans
    return x1, y1, x2, y2


def _placed(box: Box, part: tuple[float, float, float, float], scale: float) -> Box:
    """A box of the image in pixels of the picture."""
    x1, y1, x2, y2 = box
    return (x1 - part[0]) * scale, (y1 - part[1]) * scale, (x2 - part[0]) * scale, (y2 - part[1]) * scale
