"""Small pictures with boxes for the health page, embedded as data URIs."""

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

MARKED_COLOR: Color = (255, 196, 0)
OTHER_COLOR: Color = (255, 255, 255)
_RIM_COLOR: Color = (20, 20, 20)
_MARGIN_COLOR: Color = (128, 128, 128)  # of the margin for boxes that reach out of the image
_MAX_BOXES = 100
_MIN_OUTLINE = 12.0  # pixels: smaller boxes get a larger outline around them
_JPEG_QUALITY = 72
# Number of classes, pictures per class, and their longer side in pixels. They keep a page under about 10 MB.
_BUDGET = ((40, 3, 360), (100, 2, 320), (300, 1, 240), (1200, 1, 160))


@dataclass(frozen=True)
class Thumbnail:
    """A picture with its caption."""

    data: str  # a data URI
    width: int  # pixels
    height: int
    caption: str


@dataclass(frozen=True)
class ThumbnailSpec:
    """The content of a thumbnail; boxes are in pixels of the stored image."""

    path: Path
    marked: tuple[Box, ...]
    others: tuple[Box, ...]
    caption: str
    long_side: int  # of the thumbnail, in pixels


def draw_thumbnails(specs: Sequence[ThumbnailSpec]) -> list[Thumbnail | None]:
    """Draws thumbnails in several threads, in the order given; None for an image that can't be decoded."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_draw, specs))


def _draw(spec: ThumbnailSpec) -> Thumbnail | None:
    try:
        image = open_image(spec.path)
    except PipelineError:
        return None
    scale = min(1.0, spec.long_side / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, PIL.Image.Resampling.BILINEAR, reducing_gap=2.0)
    marked = [_enlarged(_scaled(box, scale)) for box in spec.marked]
    left, top, right, bottom = _margins(marked, size)
    canvas = PIL.Image.new("RGB", (left + image.width + right, top + image.height + bottom), _MARGIN_COLOR)
    canvas.paste(image, (left, top))
    for box in spec.others:
        draw_outline(canvas, _shifted(_scaled(box, scale), left, top), OTHER_COLOR, width=1)
    for box in marked:
        x1, y1, x2, y2 = _shifted(box, left, top)
        draw_outline(canvas, (x1 - 1, y1 - 1, x2 + 1, y2 + 1), _RIM_COLOR, width=3)
        draw_outline(canvas, (x1, y1, x2, y2), MARKED_COLOR, width=2)
    return Thumbnail(data_uri(canvas), canvas.width, canvas.height, spec.caption)


def _scaled(box: Box, scale: float) -> Box:
    x1, y1, x2, y2 = (value * scale for value in box)
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)  # annotations may have swapped corners


def _enlarged(box: Box) -> Box:
    """The box, or a larger one around it if its outline would hide it."""
    x, y, width, height = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
    width, height = max(width, _MIN_OUTLINE), max(height, _MIN_OUTLINE)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _margins(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Margins left, above, right and below for boxes that reach out of the image: at most half of its sides."""
    width, height = size
    outside = [(-x1, -y1, x2 - width, y2 - height) for x1, y1, x2, y2 in boxes if min(x2 - x1, y2 - y1) > _MIN_OUTLINE]
    largest = [max(sides) for sides in zip(*outside, strict=True)] or [0.0] * 4
    left, top, right, bottom = (
        math.ceil(min(side + 2, limit)) if side > 2 else 0
        for side, limit in zip(largest, (width / 2, height / 2) * 2, strict=True)
    )
    return left, top, right, bottom


def _shifted(box: Box, x: float, y: float) -> Box:
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def data_uri(image: PIL.Image.Image) -> str:
    """The image as JPEG, embedded in an address."""
    content = BytesIO()
    image.save(content, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def class_thumbnails(raw: Path, split: AnnotationSet) -> dict[int, list[ThumbnailSpec]]:
    """Thumbnails of each class, by category id: of a small, a medium and a large object. The choice is deterministic.

    If there are more classes than a page can show, only the most common ones have thumbnails.
    """
    images, annotations = {image.id: image for image in split.images}, split.by_image()
    members: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in split.annotations:
        if not annotation.iscrowd:
            members[annotation.category_id].append(annotation)
    max_classes, count, long_side = next((row for row in _BUDGET if len(split.categories) <= row[0]), _BUDGET[-1])
    shown = sorted(members, key=lambda category: -len(members[category]))[:max_classes]
    return {
        category: [
            _spec(raw, images[chosen.image_id], chosen, annotations[chosen.image_id], long_side)
            for chosen in _spread_by_size(members[category], images, count)
        ]
        for category in shown
    }


def _spread_by_size(members: Sequence[Annotation], images: dict[int, Image], count: int) -> list[Annotation]:
    """Objects at equal distances in the order of their share of the image, at most one per image."""

    def share(annotation: Annotation) -> tuple[float, int]:
        image = images[annotation.image_id]
        return annotation.bbox[2] * annotation.bbox[3] / (image.width * image.height), annotation.id

    ranked = sorted(members, key=share)
    indices = [round((len(ranked) - 1) * (number + 1) / (count + 1)) for number in range(count)]
    first_of_image = {ranked[index].image_id: ranked[index] for index in reversed(indices)}
    return sorted(first_of_image.values(), key=share)


def _spec(
    raw: Path, image: Image, chosen: Annotation, annotations: Sequence[Annotation], long_side: int
) -> ThumbnailSpec:
    same = [item for item in annotations if item.category_id == chosen.category_id and item is not chosen]
    others = [item for item in annotations if item.category_id != chosen.category_id]
    return ThumbnailSpec(
        path=raw / image.file_name,
        marked=tuple(xywh_to_xyxy(item.bbox) for item in [chosen, *same][:_MAX_BOXES]),
        others=tuple(xywh_to_xyxy(item.bbox) for item in others[:_MAX_BOXES]),
        caption=image.file_name,
        long_side=long_side,
    )
