"""Detections as the annotations of a data set, which people correct."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from fcos.postprocess import Detections
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.boxes import xyxy_to_xywh

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


class DetectedImage(Protocol):
    """An image with its detections, boxes in pixels of the stored image."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def detections(self) -> Detections: ...


def to_annotations(
    images: Sequence[DetectedImage], file_names: Sequence[str], categories: Sequence[tuple[int, str]]
) -> AnnotationSet:
    """A split with the detections as annotations; the ids of images and annotations are 1, 2, 3, ….

    Args:
        file_names: of the images.
        categories: ids and names, indexed by label.
    """
    entries = tuple(
        Image(number, name, image.width, image.height)
        for number, (name, image) in enumerate(zip(file_names, images, strict=True), 1)
    )
    boxes = [
        (entry.id, categories[label][0], box)
        for entry, image in zip(entries, images, strict=True)
        for label, box, _ in boxes_inside(image)
    ]
    found = tuple(Annotation(number, *record, record[2][2] * record[2][3]) for number, record in enumerate(boxes, 1))
    return AnnotationSet(tuple(Category(id, name) for id, name in categories), entries, found)


def boxes_inside(image: DetectedImage) -> Iterator[tuple[int, Box, float]]:
    """Labels, boxes and scores; boxes are clipped, since a coordinate may be rounded beyond the image's border."""
    found = image.detections
    ends = torch.tensor([image.width, image.height, image.width, image.height], dtype=torch.float64)
    boxes = found.boxes.double().clamp(min=0).minimum(ends)
    for label, box, score in zip(found.labels.tolist(), boxes.tolist(), found.scores.tolist(), strict=True):
        x, y, width, height = xyxy_to_xywh(box)
        if width > 0 and height > 0:
            yield label, (x, y, width, height), score
