"""Random crops and zooms, and random perspective, rotation, shear and translation."""

import math
from random import Random

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import BoundingBoxFormat

from pipeline.loading.transforms.opencv import from_array, opencv, to_array
from pipeline.loading.transforms.sample import FILL, Sample, crop, keep_visible


def random_zoom_in(sample: Sample, zoom: float, rng: Random) -> Sample:
    """Crops to 1/zoom of height and width at a random position; resizing later enlarges the content by `zoom`."""
    height, width = sample.size
    new_height, new_width = max(1, round(height / zoom)), max(1, round(width / zoom))
    top, left = rng.randint(0, height - new_height), rng.randint(0, width - new_width)
    return crop(sample, top, left, new_height, new_width)


def random_crop_with_object(sample: Sample, min_fraction: float, rng: Random) -> Sample:
    """Crops at a random position so that at least one object stays whole; keeps the aspect ratio.

    The aspect ratio stays because images of similar shape are grouped into batches.

    Args:
        min_fraction: smallest fraction of height and width that stays; more stays if the object needs it.
    """
    height, width = sample.size
    fraction = rng.uniform(min_fraction, 1)
    left, top, right, bottom = _random_object(sample, rng)
    fraction = max(fraction, (bottom - top) / height, (right - left) / width)
    new_height, new_width = (max(1, math.ceil(side * fraction - 1e-6)) for side in (height, width))
    top = rng.randint(max(0, bottom - new_height), min(top, height - new_height))
    left = rng.randint(max(0, right - new_width), min(left, width - new_width))
    return crop(sample, top, left, new_height, new_width)


def _random_object(sample: Sample, rng: Random) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of a random object, in whole pixels inside the image; of a random point if there is no object."""
    height, width = sample.size
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    x1, y1, x2, y2 = rng.choice(sample.boxes.tolist() or [[x, y, x, y]])
    return max(0, math.floor(x1)), max(0, math.floor(y1)), min(width, math.ceil(x2)), min(height, math.ceil(y2))


def random_perspective(corners: Tensor, distortion: float, rng: Random) -> Tensor:
    """Moves each corner inward by up to distortion/2 of the sides, as torchvision's RandomPerspective does.

    With a distortion above 2/3, torchvision's corners can meet or cross, which no perspective view can show. In that
    case each corner moves half as far.

    Args:
        corners: [4, 2] x, y of a rectangle: upper left, upper right, lower right, lower left.
    """
    fractions = corners.new_tensor([[rng.uniform(0, distortion / 2) for _ in range(2)] for _ in range(4)])
    inward = (corners[[2, 3, 0, 1]] - corners) * fractions
    return corners + (inward if _is_convex(corners + inward) else inward / 2)


def _is_convex(corners: Tensor) -> bool:
    """Whether the path along the corners turns right, by a clear margin, at each of them."""
    before, after = corners - corners.roll(1, dims=0), corners.roll(-1, dims=0) - corners
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return bool((turns > 0.02 * turns.abs().sum()).all())


def random_affine(
    corners: Tensor, *, size: tuple[int, int], degrees: float, shear: float, translate: float, rng: Random
) -> Tensor:
    """Rotates and shears corners around the center of the image, and translates them.

    Args:
        corners: [4, 2] x, y.
        size: height and width of the image.
        degrees: largest rotation in either direction.
        shear: largest shear in degrees, in either direction, along x and along y.
        translate: largest translation in either direction, as a fraction of the side.
    """
    offsets = [rng.uniform(-translate, translate) * side for side in reversed(size)]
    moved: Tensor
    moved, _ = functional.affine_keypoints(
        corners,
        size,
        angle=rng.uniform(-degrees, degrees),
        translate=offsets,
        scale=1.0,
        shear=[rng.uniform(-shear, shear) for _ in range(2)],
    )
    return moved


def image_corners(size: tuple[int, int]) -> Tensor:
    """[4, 2] x, y of an image's corners: upper left, upper right, lower right, lower left."""
    height, width = size
    return torch.tensor([[0, 0], [width, 0], [width, height], [0, height]], dtype=torch.float32)


def warp(sample: Sample, corners: Tensor) -> Sample:
    """Applies the projective transform that maps the image's corners to the given ones; keeps the image's size.

    A box becomes the bounding box of its four mapped corners. Pixels without image content get `FILL`.

    Args:
        corners: [4, 2] in the order of `image_corners`, a convex quadrilateral.
    """
    original, (height, width) = image_corners(sample.size), sample.size
    cv2 = opencv()
    # OpenCV's coordinates are 0 at the center of the first pixel; corners and boxes are 0 at its edge.
    matrix = cv2.getPerspectiveTransform((original - 0.5).numpy(), (corners - 0.5).numpy())
    image = cv2.warpPerspective(to_array(sample.image), matrix, (width, height), borderValue=FILL)
    boxes = functional.perspective_bounding_boxes(
        sample.boxes, BoundingBoxFormat.XYXY, sample.size, original.tolist(), corners.tolist(), clamping_mode=None
    )
    return keep_visible(sample, from_array(image), boxes)
