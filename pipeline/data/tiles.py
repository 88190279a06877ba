"""Tiles: overlapping windows that large images are cut into, in training and in inference."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image, in whole pixels."""

    x1: int
    y1: int
    x2: int
    y2: int

    def crop(self, image: Tensor) -> Tensor:
        """The pixels [3, h, w] of the tile, with the memory layout of a decoded image."""
        return image.movedim(0, -1)[self.y1 : self.y2, self.x1 : self.x2].contiguous().movedim(-1, 0)


def cut(height: int, width: int, size: int, overlap: float) -> list[Tile]:
    """The whole image, then equal tiles of it, evenly spaced from one border to the other.

    An image that is no larger than a tile is not cut.

    Args:
        size: side of a tile in pixels; an image that is smaller in one direction is not cut in that direction.
        overlap: smallest overlap of neighboring tiles, as a fraction of their side.
    """
    tiles = [
        Tile(x, y, x + min(size, width), y + min(size, height))
        for y in _starts(height, size, overlap)
        for x in _starts(width, size, overlap)
    ]
    whole = Tile(0, 0, width, height)
    return [whole] if tiles == [whole] else [whole, *tiles]


def _starts(length: int, size: int, overlap: float) -> list[int]:
    if length <= size:
        return [0]
    steps = math.ceil((length - size) / max(1, math.floor(size * (1 - overlap))))
    return [(length - size) * step // steps for step in range(steps + 1)]
