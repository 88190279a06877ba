"""From an image as stored to an image as the network sees it: resized, and in training changed at random.

The primitives are torchvision's transforms v2; every random number comes from the generator given.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional


@dataclass(frozen=True)
class Sample:
    """One image and its objects, in the image's own pixels."""

    image: Tensor  # uint8 [3, H, W]
    boxes: Tensor  # float32 [M, 4] x1, y1, x2, y2
    labels: Tensor  # int64 [M]
    name: str


def fitted_scale(height: int, width: int, size: tuple[int, int]) -> float:
    """Factor by which an image is resized: the shorter side becomes the first, unless the longer passes the second."""
    return min(size[0] / min(height, width), size[1] / max(height, width))


def resized_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width of an image after `resize`."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def network_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image as the network sees it where nothing is augmented, without padding."""
    return resized_size(height, width, fitted_scale(height, width, size))


def resize(sample: Sample, scale: float) -> Sample:
    """Resizes image and boxes; sides are rounded to whole pixels, and boxes follow the rounded sides."""
    height, width = sample.image.shape[-2:]
    new_height, new_width = resized_size(height, width, scale)
    if (new_height, new_width) == (height, width):
        return sample
    image = functional.resize(sample.image, [new_height, new_width], antialias=True)
    factors = torch.tensor([new_width / width, new_height / height] * 2)
    return Sample(image, sample.boxes * factors, sample.labels, sample.name)


def flip(sample: Sample) -> Sample:
    """Mirrors left and right."""
    width = sample.image.shape[-1]
    x1, y1, x2, y2 = sample.boxes.unbind(-1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=-1)
    return Sample(functional.horizontal_flip(sample.image), boxes, sample.labels, sample.name)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cuts out a window; an object stays, cut at the window's edge, where its centre is inside."""
    image = functional.crop(sample.image, top, left, height, width)
    offset = torch.tensor([left, top, left, top], dtype=torch.float32)
    limit = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = sample.boxes - offset
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > 0) & (centres < limit[:2])).all(dim=-1)
    return Sample(image, boxes[inside].clamp(min=0).minimum(limit), sample.labels[inside], sample.name)


def augment(
    sample: Sample,
    *,
    size: tuple[int, int],
    zoom: tuple[float, float],
    flip_probability: float,
    random: torch.Generator,
) -> Sample:
    """Resizes to `size` times a random zoom, crops what grew beyond `size`, flips.

    Args:
        zoom: smallest and largest factor; drawn evenly on a logarithmic scale, so that 0.5 and 2 are as likely.
    """
    height, width = sample.image.shape[-2:]
    fitted = fitted_scale(height, width, size)
    # All numbers are drawn, needed or not: one option must not change another's luck.
    draw, across, down, mirrored = torch.rand(4, generator=random).tolist()
    low, high = math.log(zoom[0]), math.log(zoom[1])
    sample = resize(sample, fitted * math.exp(low + draw * (high - low)))
    window = min(sample.image.shape[-2], round(height * fitted)), min(sample.image.shape[-1], round(width * fitted))
    if window != tuple(sample.image.shape[-2:]):
        top = int(down * (sample.image.shape[-2] - window[0] + 1))
        left = int(across * (sample.image.shape[-1] - window[1] + 1))
        sample = crop(sample, top, left, *window)
    return flip(sample) if mirrored < flip_probability else sample
