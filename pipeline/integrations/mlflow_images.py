"""Detections on a few validation images, drawn after every validation, so that learning can be seen."""

import io
from collections.abc import Sequence
from pathlib import Path

import PIL.Image

from pipeline.data.annotations import AnnotationSet, Image
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.detections import Detection
from pipeline.data.images import read_image, to_pil
from pipeline.visualization.boxes import Box, class_color, draw_boxes, draw_outline, draw_tag

COUNT = 4  # images
SIDE = 512  # pixels of an image's longer side
SCORE = 0.3  # lowest score of a drawn detection
_TRUTH_COLORS = (0, 0, 0), (255, 255, 255)  # of gaps and dashes, one of which is visible on any background
_CAPTION_COLOR = (60, 60, 60)


class ValidationImages:
    """Images of the validation split, always the same for a data set, and what was last detected in them."""

    def __init__(self, split: AnnotationSet, folder: Path) -> None:
        self._split = split
        self._images = _choose(split)
        self._pictures = {image.id: _picture(folder / image.file_name, image) for image in self._images}
        self._detections: dict[int, list[Detection]] = {}

    def keep(self, detections: Sequence[Detection]) -> None:
        """Keeps the detections in these images, of those in all images."""
        self._detections = {image.id: [] for image in self._images}
        for detection in detections:
            if detection.image_id in self._detections and detection.score >= SCORE:
                self._detections[detection.image_id].append(detection)

    def draw(self) -> list[PIL.Image.Image]:
        """The images, with objects as dashed boxes and detections in the color of their class."""
        objects = self._split.subset(self._images).by_image()
        return [self._draw(image, [item.bbox for item in objects[image.id]]) for image in self._images]

    def _draw(self, image: Image, objects: Sequence[Box]) -> PIL.Image.Image:
        picture, detections = self._pictures[image.id].copy(), self._detections.get(image.id, [])
        scale = picture.width / image.width
        for box in objects:
            for color, dashed in zip(_TRUTH_COLORS, (False, True), strict=True):
                draw_outline(picture, _scaled(box, scale), color, width=1, dashed=dashed)
        labels, names = self._split.label_of(), {item.id: item.name for item in self._split.categories}
        drawn = draw_boxes(
            picture,
            [_scaled(item.bbox, scale) for item in detections],
            [names[item.category_id] for item in detections],
            [class_color(labels[item.category_id]) for item in detections],
            [item.score for item in detections],
        )
        draw_tag(drawn, (0, drawn.height), Path(image.file_name).stem, _CAPTION_COLOR, SIDE / 32)
        return drawn

    def example(self) -> bytes:
        """The first image as a JPEG file."""
        content = io.BytesIO()
        self._pictures[self._images[0].id].save(content, "JPEG")
        return content.getvalue()


def _choose(split: AnnotationSet) -> list[Image]:
    """Images with objects, spread evenly over the split."""
    groups = split.by_image()
    candidates = [image for image in split.images if groups[image.id]] or list(split.images)
    count = min(COUNT, len(candidates))
    return [candidates[index * len(candidates) // count] for index in range(count)]


def _picture(path: Path, image: Image) -> PIL.Image.Image:
    scale = SIDE / max(image.width, image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return to_pil(read_image(path, (image.width, image.height))).resize(size, PIL.Image.Resampling.BICUBIC)


def _scaled(box: Box, scale: float) -> Box:
    x1, y1, x2, y2 = xywh_to_xyxy(box)
    return x1 * scale, y1 * scale, x2 * scale, y2 * scale
