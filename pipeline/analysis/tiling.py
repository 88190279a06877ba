"""Whether training needs tiles or a larger input, from the sizes of boxes and images.

`fcos validate`, `fcos check` and `fcos recipes auto` share these rules. They need no torch.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import AnnotationSet
from pipeline.params import TrainParams

Floats = NDArray[np.float64]
Size = tuple[int, int]  # shorter and longer side in pixels, as train.size

SIDE_MULTIPLE = 32  # pixels: what batches are padded to
MAX_PIXELS = {"cpu": 499_999, "cuda": 800 * 1333}  # of an input

# √area of boxes in pixels at the input size
WANTED_SIDE = 22  # of small boxes: a quarter of BCCD's platelets have less than 23.6 at the size of cpu_lite0
_LEAST_SIDE = 16  # small boxes with less need tiles
_TILED_SIDE, _MAX_TILED_SHARE = 12, 0.25  # tiles, or a larger input, help from this share of smaller boxes on
_UNSEEN_SIDE, _MAX_UNSEEN_SHARE = 8, 0.1  # below the stride of P3; `fcos check` warns from this share on

_MAX_SCALE = 0.5  # images that are shrunk less gain little from tiles
_MAX_ENLARGEMENT = 2.0  # of tiles


def input_sizes(image_sizes: Floats, least_side: int, max_pixels: int) -> tuple[Size, ...]:
    """Sensible input sizes of the images' usual shape, smallest first; none is larger than the usual image.

    Args:
        image_sizes: [N, 2] height and width of the stored images.
        least_side: longer side of the smallest size in pixels.
        max_pixels: of the largest size.
    """
    sides = np.sort(image_sizes, axis=1)
    shape = float(np.median(sides[:, 0] / sides[:, 1]))
    largest = max(SIDE_MULTIPLE, _round_up(float(np.median(sides[:, 1]))))
    sizes = [(_round_up(side * shape), side) for side in range(min(least_side, largest), largest + 1, SIDE_MULTIPLE)]
    return tuple(size for size in sizes if math.prod(size) <= max_pixels) or (sizes[0],)


def _round_up(side: float) -> int:
    return math.ceil(side / SIDE_MULTIPLE - 1e-9) * SIDE_MULTIPLE


def smallest_size(sizes: tuple[Size, ...], condition: Callable[[Size], bool]) -> Size:
    """The smallest size that meets a condition, or the largest one if none does."""
    return next((size for size in sizes if condition(size)), sizes[-1])


def shows_boxes(roots: Floats, scale: float) -> bool:
    """Whether few enough boxes are small at an input size.

    Args:
        roots: [M] √area of the boxes in pixels at the input size.
        scale: by which the usual image is resized.
    """
    shrunk = scale <= _MAX_SCALE and float((roots < _TILED_SIDE).mean()) >= _MAX_TILED_SHARE
    return not shrunk and float((roots < _UNSEEN_SIDE).mean()) < _MAX_UNSEEN_SHARE


def needs_tiles(roots: Floats, scale: float, small_side: float) -> bool:
    """Whether boxes are too small even at the largest input, of images that are much larger than that.

    Args:
        roots: [M] √area of the boxes in pixels at that input.
        scale: by which the usual image is resized.
        small_side: √area of small boxes in pixels at that input.
    """
    return scale <= _MAX_SCALE and (small_side < _LEAST_SIDE or not shows_boxes(roots, scale))


def too_small(roots: Floats) -> NDArray[np.bool_]:
    """[M] whether tiles are there for a box of this √area in pixels at the input size."""
    return roots < _LEAST_SIDE


def choose_tile(small_side: float, box_sizes: Floats, input_side: int, image_side: float) -> tuple[int, float]:
    """Side and overlap of tiles that show small boxes with `WANTED_SIDE` pixels, enlarged twice at most.

    Args:
        small_side: √area of small boxes in pixels of the stored image.
        box_sizes: [M, 2] height and width of the boxes that are too small without tiles, in pixels of the stored image.
        input_side: shorter side of the input in pixels.
        image_side: shorter side of the usual stored image in pixels; tiles are smaller.
    """
    side = min(input_side / min(_MAX_ENLARGEMENT, WANTED_SIDE / small_side), image_side - 1)
    side = max(SIDE_MULTIPLE, math.floor(side / SIDE_MULTIPLE) * SIDE_MULTIPLE)
    large = float(np.quantile(box_sizes.max(axis=1), 0.9))
    return side, min(0.5, max(0.1, math.ceil(20 * large / side) / 20))  # most of these boxes are whole in a tile


def propose_tiles(train: TrainParams, box_sizes: Floats, image_sizes: Floats, device: str = "cpu") -> str | None:
    """A line with the options to try: tiles, or a larger input if that is enough.

    None if tiles are used already, or there are few small boxes in large images.

    Args:
        box_sizes: [M, 2] height and width of the training objects in pixels at the input size.
        image_sizes: [N, 2] height and width of the stored images.
        device: cpu or cuda, which has larger inputs.
    """
    if train.tiles or not len(box_sizes):
        return None
    roots, scale = np.sqrt(box_sizes.prod(axis=1)), float(np.median(resize_factors(train, image_sizes)))
    small = roots < _TILED_SIDE
    if small.mean() < _MAX_TILED_SHARE or scale > _MAX_SCALE:  # images that are hardly shrunk need a larger train.size
        return None
    found = f"{small.mean():.0%} of the boxes are under {_TILED_SIDE} px at the input size: "
    size = _larger_input(roots / scale, image_sizes, MAX_PIXELS[device])
    if size and _scale(image_sizes, size) > scale:
        height, width = np.median(image_sizes, axis=0)
        sides = size[::-1] if train.letterbox and height > width else size  # letterbox: height and width
        return f"{found}a larger input shows them better: -S 'train.size=[{sides[0]}, {sides[1]}]'"
    median = float(np.median(roots[small]))
    image_side = float(np.median(image_sizes.min(axis=1)))
    side, overlap = choose_tile(median / scale, box_sizes[small] / scale, min(train.size), image_side)
    option = f"[{side}, {overlap:g}]"
    enlarged = median / scale * train.input_size.scale(side, side)
    return (
        f"{found}tiles of {side} px would show their median at {enlarged:.0f} px instead of {median:.0f}: "
        f"-S 'train.tiles={option}' -S 'evaluate.tiles={option}'"
    )


def _larger_input(roots: Floats, image_sizes: Floats, max_pixels: int) -> Size | None:
    """The smallest input that shows small boxes of these √areas in stored images; None if they need tiles."""
    sizes = input_sizes(image_sizes, SIDE_MULTIPLE, max_pixels)
    small_side, scale = float(np.percentile(roots, 25)), _scale(image_sizes, sizes[-1])
    if needs_tiles(roots * scale, scale, small_side * scale):
        return None
    return smallest_size(sizes, lambda size: small_side * _scale(image_sizes, size) >= WANTED_SIDE)


def _scale(image_sizes: Floats, size: Size) -> float:
    """The factor by which the usual image is resized to a size."""
    return float(np.median((np.array(size) / np.sort(image_sizes, axis=1)).min(axis=1)))


def propose_for(train: TrainParams, split: AnnotationSet) -> str | None:
    """`propose_tiles` for the objects of a split that training uses."""
    size_of = {image.id: (image.height, image.width) for image in split.images}
    objects = [item for item in split.objects if train.include_difficult or not item.difficult]
    sides = np.array([item.bbox[3:1:-1] for item in objects], dtype=np.float64).reshape(-1, 2)
    images = np.array([size_of[item.image_id] for item in objects], dtype=np.float64).reshape(-1, 2)
    every_image = np.array(list(size_of.values()), dtype=np.float64).reshape(-1, 2)
    return propose_tiles(train, sides * resize_factors(train, images)[:, None], every_image)


def box_factors(train: TrainParams, image_sizes: Floats, box_sizes: Floats) -> Floats:
    """[M] the resize factors of boxes: those larger than a tile are seen in the whole image.

    Args:
        image_sizes: [M, 2] height and width of each box's stored image.
        box_sizes: [M, 2] height and width of the boxes in pixels of that image.
    """
    factors = resize_factors(train, image_sizes)
    if train.tiles is None:
        return factors
    whole = resize_factors(replace(train, tiles=None), image_sizes)
    return np.where(box_sizes.max(axis=1) <= train.tiles[0], factors, whole)


def resize_factors(train: TrainParams, image_sizes: Floats) -> Floats:
    """[N] the resize factors of images, or their tiles, of these heights and widths [N, 2]: as InputSize.scale."""
    size = np.array(train.size, dtype=np.float64)
    tile = train.tiles[0] if train.tiles else np.inf
    sides = np.minimum(image_sizes if train.letterbox else np.sort(image_sizes, axis=1), tile)
    scales: Floats = (size / sides).min(axis=1)
    return scales
