"""Four images put together: YOLOv4's mosaic (Bochkovskiy et al., 2004.10934)."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from random import Random

import torch
from torch import Tensor

from pipeline.loading.transforms.sample import FILL, Sample, crop, resize

_CENTER = (0.25, 0.75)  # where the images meet, as shares of height and width: so each of them is seen


def center_of(size: tuple[int, int], random: Random) -> tuple[int, int]:
    """Row and column at which a mosaic's images meet."""
    return round(size[0] * random.uniform(*_CENTER)), round(size[1] * random.uniform(*_CENTER))


def mosaic(
    parts: Sequence[tuple[Sample, float]], size: tuple[int, int], center: tuple[int, int], random: Random
) -> Sample:
    """Lays a corner of each image at the center, or of the part of it, taken at random, that its quarter has room for.

    YOLOv4 always shows the part at the corner; objects are seldom there. Where an image leaves room, there is `FILL`.

    Args:
        parts: four images, each with the factor that it is resized by: upper left, upper right, lower left, lower
            right. The first gives its name.
        size: height and width of the whole.
        center: row and column at which the four meet.
    """
    (height, width), (row, column) = size, center
    canvas = torch.tensor(FILL, dtype=torch.uint8).repeat(height, width, 1).permute(2, 0, 1)
    placed = []
    for place, (part, scale) in enumerate(parts):
        lower, right = place >= 2, place % 2 == 1
        room = (height - row if lower else row), (width - column if right else column)
        piece = _piece(part, scale, room, random)
        top, left = (row if lower else row - piece.size[0]), (column if right else column - piece.size[1])
        placed.append(_pasted(canvas, piece, top, left))
    boxes, labels = torch.cat([one.boxes for one in placed]), torch.cat([one.labels for one in placed])
    return replace(parts[0][0], image=canvas, boxes=boxes, labels=labels)


def _piece(part: Sample, scale: float, room: tuple[int, int], random: Random) -> Sample:
    """Resized and cut to the room; almost all that is cut off is so before the work of resizing it."""
    needed = max(1, ceil(room[0] / scale)), max(1, ceil(room[1] / scale))
    return _cut(resize(_cut(part, needed, random), scale), room, random)


def _cut(sample: Sample, most: tuple[int, int], random: Random) -> Sample:
    (height, width), (new_height, new_width) = sample.size, map(min, sample.size, most)
    top, left = random.randint(0, height - new_height), random.randint(0, width - new_width)
    return crop(sample, top, left, new_height, new_width)


def _pasted(canvas: Tensor, piece: Sample, top: int, left: int) -> Sample:
    height, width = piece.size
    canvas[:, top : top + height, left : left + width] = piece.image
    return replace(piece, boxes=piece.boxes + piece.boxes.new_tensor([left, top, left, top]))
