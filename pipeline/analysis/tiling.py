"""Whether training on tiles would help, from the sizes of boxes and images. `fcos validate` needs no torch for it."""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import AnnotationSet
from pipeline.params import TrainParams

Floats = NDArray[np.float64]

_SMALL_BOX, _SHARE = 12, 0.25  # pixels at the input size, and the share of smaller boxes from which tiles are proposed
_BOX_IN_TILE = 16  # pixels at the input size that the median box has at least in a proposed tile


def propose_tiles(train: TrainParams, box_sizes: Floats, image_sizes: Floats) -> str | None:
    """A line with the options to try; None if tiles are used already, or there are few small boxes in large images.

    Args:
        box_sizes: [M, 2] height and width of the training objects in pixels at the input size.
        image_sizes: [N, 2] height and width of the stored images.
    """
    if train.tiles or not len(box_sizes):
        return None
    sizes, scale = np.sqrt(box_sizes.prod(axis=1)), float(np.median(resize_factors(train, image_sizes)))
    share, median = float((sizes < _SMALL_BOX).mean()), float(np.median(sizes))
    if share < _SHARE or scale > 0.5:  # a larger train.size is simpler for images that are hardly shrunk
        return None
    side = max(32, math.floor(min(train.size) * min(1.0, median / scale / _BOX_IN_TILE) / 32) * 32)
    large = float(np.percentile(box_sizes.max(axis=1), 90)) / scale
    overlap = min(0.5, max(0.1, math.ceil(20 * large / side) / 20))  # most boxes are whole in a tile
    enlarged = median / scale * train.input_size.scale(side, side)
    option = f"[{side}, {overlap:g}]"
    return (
        f"{share:.0%} of the boxes are under {_SMALL_BOX} px at the input size: tiles of {side} px would show the "
        f"median box at {enlarged:.0f} px instead of {median:.0f}: "
        f"-S 'train.tiles={option}' -S 'evaluate.tiles={option}'"
    )


def propose_for(train: TrainParams, split: AnnotationSet) -> str | None:
    """`propose_tiles` for the objects of a split that training uses."""
    size_of = {image.id: (image.height, image.width) for image in split.images}
    objects = [item for item in split.objects if train.include_difficult or not item.difficult]
    sides = np.array([item.bbox[3:1:-1] for item in objects], dtype=np.float64).reshape(-1, 2)
    images = np.array([size_of[item.image_id] for item in objects], dtype=np.float64).reshape(-1, 2)
    every_image = np.array(list(size_of.values()), dtype=np.float64).reshape(-1, 2)
    return propose_tiles(train, sides * resize_factors(train, images)[:, None], every_image)


def resize_factors(train: TrainParams, image_sizes: Floats) -> Floats:
    """[N] the resize factors of images, or their tiles, of these heights and widths [N, 2]: as InputSize.scale."""
    size = np.array(train.size, dtype=np.float64)
    tile = train.tiles[0] if train.tiles else np.inf
    sides = np.minimum(image_sizes if train.letterbox else np.sort(image_sizes, axis=1), tile)
    scales: Floats = (size / sides).min(axis=1)
    return scales
