"""Random cuts, and the image seen turned, sheared, moved and from aside."""

import math
from random import Random

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import BoundingBoxFormat

from pipeline.loading.transforms.sample import FILL, Sample, crop, picture, pixels, with_visible


def zoom_in(sample: Sample, zoom: float, random: Random) -> Sample:
    """Cuts to 1/zoom of height and width, anywhere; what is resized after that shows it so much larger."""
    height, width = sample.size
    new_height, new_width = max(1, round(height / zoom)), max(1, round(width / zoom))
    top, left = random.randint(0, height - new_height), random.randint(0, width - new_width)
    return crop(sample, top, left, new_height, new_width)


def crop_with_object(sample: Sample, least: float, random: Random) -> Sample:
    """Cuts to a part of the image's shape, anywhere but with at least one object in it that is whole.

    The shape stays because batches are made of images of like shape.

    Args:
        least: share of height and width that stays, at least; more does where the object needs it.
    """
    height, width = sample.size
    share = random.uniform(least, 1)
    left, top, right, bottom = _around_one(sample, random)
    share = max(share, (bottom - top) / height, (right - left) / width)
    new_height, new_width = (max(1, math.ceil(side * share - 1e-6)) for side in (height, width))
    top = random.randint(max(0, bottom - new_height), min(top, height - new_height))
    left = random.randint(max(0, right - new_width), min(left, width - new_width))
    return crop(sample, top, left, new_height, new_width)


def _around_one(sample: Sample, random: Random) -> tuple[int, int, int, int]:
    """One of the objects, in whole pixels that are inside the image; a point of the image where there is none."""
    height, width = sample.size
    x, y = random.uniform(0, width), random.uniform(0, height)
    x1, y1, x2, y2 = random.choice(sample.boxes.tolist() or [[x, y, x, y]])
    return max(0, math.floor(x1)), max(0, math.floor(y1)), min(width, math.ceil(x2)), min(height, math.ceil(y2))


def aside(corners: Tensor, distortion: float, random: Random) -> Tensor:
    """Moves corners as a look from aside does: each inwards by at most distortion/2 of the sides.

    That is torchvision's RandomPerspective. It lets corners meet or pass each other where distortion is over 2/3, and
    no view is like that: then each goes half as far.

    Args:
        corners: [4, 2] x, y of a rectangle: upper left, upper right, lower right, lower left.
    """
    shares = corners.new_tensor([[random.uniform(0, distortion / 2) for _ in range(2)] for _ in range(4)])
    inwards = (corners[[2, 3, 0, 1]] - corners) * shares
    return corners + (inwards if _convex(corners + inwards) else inwards / 2)


def _convex(corners: Tensor) -> bool:
    """Whether the way along the corners turns right at each of them, and not by a hair."""
    before, after = corners - corners.roll(1, dims=0), corners.roll(-1, dims=0) - corners
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return bool((turns > 0.02 * turns.abs().sum()).all())


def affine(
    corners: Tensor, *, size: tuple[int, int], degrees: float, shear: float, translate: float, random: Random
) -> Tensor:
    """Turns and shears corners around the image's middle, and moves them.

    Args:
        corners: [4, 2] x, y.
        size: height and width of the image.
        degrees: at most so far, either way; shear likewise, along x and along y.
        translate: share of a side, likewise.
    """
    moves = [random.uniform(-translate, translate) * side for side in reversed(size)]
    moved, _ = functional.affine_keypoints(
        corners,
        size,
        angle=random.uniform(-degrees, degrees),
        translate=moves,
        scale=1.0,
        shear=[random.uniform(-shear, shear) for _ in range(2)],
    )
    answer: Tensor = moved
    return answer


def corners_of(size: tuple[int, int]) -> Tensor:
    """[4, 2] x, y of an image's corners: upper left, upper right, lower right, lower left."""
    height, width = size
    return torch.tensor([[0, 0], [width, 0], [width, height], [0, height]], dtype=torch.float32)


def warp(sample: Sample, corners: Tensor) -> Sample:
    """The image as a projective map shows it that takes its corners there; its size stays.

    A box becomes the one around its four corners. `FILL` comes into view at the edges.

    Args:
        corners: [4, 2] as `corners_of` orders them, around a convex shape.
    """
    ends = corners_of(sample.size).tolist(), corners.tolist()
    image = functional.perspective(picture(sample.image), *ends, InterpolationMode.BILINEAR, fill=list(FILL))
    boxes = functional.perspective_bounding_boxes(
        sample.boxes, BoundingBoxFormat.XYXY, sample.size, *ends, clamping_mode=None
    )
    return with_visible(sample, pixels(image), boxes)
