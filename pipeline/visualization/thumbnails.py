"""Pictures for the page: small, with boxes, as text that stands inside it."""

import base64
import math
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import PIL.Image

from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.images import open_image
from pipeline.errors import PipelineError
from pipeline.visualization.boxes import Box, Color, draw_outline

MARKED: Color = (255, 196, 0)
OTHER: Color = (255, 255, 255)
_RIM: Color = (20, 20, 20)
_OUTSIDE: Color = (128, 128, 128)  # around the image, where a box reaches out of it
_BOXES = 100  # drawn at most
_LEAST = 12.0  # pixels of a frame's side
_QUALITY = 72
# By the number of classes: pictures of each, and their longer side in pixels. A page stays under some 10 MB.
_BUDGET = ((40, 3, 360), (100, 2, 320), (300, 1, 240), (1200, 1, 160))


@dataclass(frozen=True)
class Picture:
    """A picture with what to read below it."""

    data: str  # a data URI
    width: int  # pixels
    height: int
    caption: str


@dataclass(frozen=True)
class Sample:
    """What to draw: boxes in pixels of the image as stored."""

    path: Path
    marked: tuple[Box, ...]
    others: tuple[Box, ...]
    caption: str
    side: int  # of the picture's longer side, in pixels


def draw_all(samples: Sequence[Sample]) -> list[Picture | None]:
    """Their pictures, in order; None for an image that can't be decoded. Threads keep the cores busy."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_drawn, samples))


def _drawn(sample: Sample) -> Picture | None:
    try:
        image = open_image(sample.path)
    except PipelineError:
        return None
    factor = min(1.0, sample.side / max(image.size))
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    small = image.resize(size, PIL.Image.Resampling.BILINEAR, reducing_gap=2.0)
    marked = [_visible(_scaled(box, factor)) for box in sample.marked]
    left, top, right, bottom = _margins(marked, size)
    canvas = PIL.Image.new("RGB", (left + small.width + right, top + small.height + bottom), _OUTSIDE)
    canvas.paste(small, (left, top))
    for box in sample.others:
        draw_outline(canvas, _moved(_scaled(box, factor), left, top), OTHER, width=1)
    for box in marked:
        x1, y1, x2, y2 = _moved(box, left, top)
        draw_outline(canvas, (x1 - 1, y1 - 1, x2 + 1, y2 + 1), _RIM, width=3)
        draw_outline(canvas, (x1, y1, x2, y2), MARKED, width=2)
    return Picture(_uri(canvas), canvas.width, canvas.height, sample.caption)


def _scaled(box: Box, factor: float) -> Box:
    x1, y1, x2, y2 = (value * factor for value in box)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)  # corners may be swapped


def _visible(box: Box) -> Box:
    """The box, or a larger one around it where it would be lost under its own frame."""
    x, y, width, height = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
    width, height = max(width, _LEAST), max(height, _LEAST)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _margins(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """What to add left, above, right and below for boxes that reach out of the image: up to half a side."""
    width, height = size
    beyond = [(-x1, -y1, x2 - width, y2 - height) for x1, y1, x2, y2 in boxes if min(x2 - x1, y2 - y1) > _LEAST]
    far = [max(sides) for sides in zip(*beyond, strict=True)] or [0.0] * 4
    left, top, right, bottom = (
        math.ceil(min(side + 2, half)) if side > 2 else 0
        for side, half in zip(far, (width / 2, height / 2) * 2, strict=True)
    )
    return left, top, right, bottom


def _moved(box: Box, right: float, down: float) -> Box:
    return box[0] + right, box[1] + down, box[2] + right, box[3] + down


def _uri(image: PIL.Image.Image) -> str:
    content = BytesIO()
    image.save(content, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def of_classes(raw: Path, split: AnnotationSet) -> dict[int, list[Sample]]:
    """Samples of each class by category id, a small, a middling and a large object of it; always the same ones.

    Of more classes than a page can show, the commonest have samples.
    """
    images, groups = {image.id: image for image in split.images}, split.by_image()
    members: dict[int, list[Annotation]] = defaultdict(list)
    for one in split.annotations:
        if not one.iscrowd:
            members[one.category_id].append(one)
    most, each, side = next((row for row in _BUDGET if len(split.categories) <= row[0]), _BUDGET[-1])
    shown = sorted(members, key=lambda category: -len(members[category]))[:most]
    return {
        category: [
            _sample(raw, images[one.image_id], one, groups[one.image_id], side)
            for one in _spread(members[category], images, each)
        ]
        for category in shown
    }


def _spread(members: Sequence[Annotation], images: dict[int, Image], count: int) -> list[Annotation]:
    """So many objects at even distances from the smallest to the largest, by their share of the image."""

    def share(one: Annotation) -> tuple[float, int]:
        image = images[one.image_id]
        return one.bbox[2] * one.bbox[3] / (image.width * image.height), one.id

    ranked = sorted(members, key=share)
    places = [round((len(ranked) - 1) * (place + 1) / (count + 1)) for place in range(count)]
    first_of_image = {ranked[place].image_id: ranked[place] for place in reversed(places)}
    return sorted(first_of_image.values(), key=share)


def _sample(raw: Path, image: Image, one: Annotation, group: Sequence[Annotation], side: int) -> Sample:
    same = [other for other in group if other.category_id == one.category_id and other is not one]
    others = [other for other in group if other.category_id != one.category_id]
    marked = tuple(xywh_to_xyxy(each.bbox) for each in [one, *same][:_BOXES])
    around = tuple(xywh_to_xyxy(each.bbox) for each in others[:_BOXES])
    return Sample(raw / image.file_name, marked, around, image.file_name, side)
