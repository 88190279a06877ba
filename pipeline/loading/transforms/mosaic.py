"""Mosaic of four images, from YOLOv4 (Bochkovskiy et al., 2004.10934)."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from random import Random

import torch
from torch import Tensor

from pipeline.loading.transforms.sample import FILL, Sample, crop, resize

_CENTER_RANGE = (0.25, 0.75)  # of height and width; so each image keeps at least a quarter of each side


def random_center(size: tuple[int, int], rng: Random) -> tuple[int, int]:
    """Row and column at which the four images of a mosaic meet."""
    return round(size[0] * rng.uniform(*_CENTER_RANGE)), round(size[1] * rng.uniform(*_CENTER_RANGE))


def mosaic(
    parts: Sequence[tuple[Sample, float]], size: tuple[int, int], center: tuple[int, int], rng: Random
) -> Sample:
    """Fills each quadrant with an image, or with a random window of it if the image is larger than the quadrant.

    YOLOv4 always shows the corner of an image, where objects are rare. Pixels that no image covers get `FILL`.

    Args:
        parts: four images, each with the factor it is resized by, in the order upper left, upper right, lower left,
            lower right. The result has the name of the first.
        size: height and width of the mosaic.
        center: row and column at which the four images meet.
    """
    (height, width), (row, column) = size, center
    # By rows, since torch repeats three values per pixel slowly: 3.7 ms for 640×640.
    row_of_pixels = torch.tensor(FILL, dtype=torch.uint8).repeat(width)
    canvas = row_of_pixels.repeat(height, 1).view(height, width, 3).permute(2, 0, 1)
    pasted = []
    for quadrant, (part, scale) in enumerate(parts):
        lower, right = quadrant >= 2, quadrant % 2 == 1
        space = (height - row if lower else row), (width - column if right else column)
        piece = _fit(part, scale, space, rng)
        top, left = (row if lower else row - piece.size[0]), (column if right else column - piece.size[1])
        pasted.append(_paste(canvas, piece, top, left))
    boxes, labels = torch.cat([piece.boxes for piece in pasted]), torch.cat([piece.labels for piece in pasted])
    return replace(parts[0][0], image=canvas, boxes=boxes, labels=labels)


def _fit(part: Sample, scale: float, space: tuple[int, int], rng: Random) -> Sample:
    """Resizes an image and cuts it to the space. Most of what is cut off is removed before resizing, to save time."""
    needed = max(1, ceil(space[0] / scale)), max(1, ceil(space[1] / scale))
    return _random_window(resize(_random_window(part, needed, rng), scale), space, rng)


def _random_window(sample: Sample, max_size: tuple[int, int], rng: Random) -> Sample:
    (height, width), (new_height, new_width) = sample.size, map(min, sample.size, max_size)
    top, left = rng.randint(0, height - new_height), rng.randint(0, width - new_width)
    if (new_height, new_width) == (height, width):
        return sample
    return crop(sample, top, left, new_height, new_width)


def _paste(canvas: Tensor, piece: Sample, top: int, left: int) -> Sample:
    """Copies the piece's pixels into the canvas; returns the piece with its boxes in pixels of the canvas."""
    height, width = piece.size
    canvas[:, top : top + height, left : left + width] = piece.image
    return replace(piece, boxes=piece.boxes + piece.boxes.new_tensor([left, top, left, top]))
