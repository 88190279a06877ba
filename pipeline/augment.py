"""From an image as stored to an image as training sees it: resized and changed at random.

The primitives are torchvision's transforms v2; every random number comes from the generator given.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from fcos.input_size import InputSize, scaled
from pipeline.images import resized
from pipeline.params import AugmentParams


@dataclass(frozen=True)
class Sample:
    """One image and its objects, in the image's own pixels."""

    image: Tensor  # uint8 [3, H, W]
    boxes: Tensor  # float32 [M, 4] x1, y1, x2, y2
    labels: Tensor  # int64 [M]
    name: str
    annotated: int = 0  # objects that the image had before it was changed, where that is known


def resize(sample: Sample, scale: float) -> Sample:
    """Resizes image and boxes; sides are rounded to whole pixels, and boxes follow the rounded sides."""
    height, width = sample.image.shape[-2:]
    new_height, new_width = scaled(height, width, scale)
    if (new_height, new_width) == (height, width):
        return sample
    factors = torch.tensor([new_width / width, new_height / height] * 2)
    return Sample(resized(sample.image, new_height, new_width), sample.boxes * factors, sample.labels, sample.name)


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


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to an image on its way to a training batch."""

    params: AugmentParams
    input_size: InputSize
    multi_scale: tuple[int, int] | None
    epochs: int
    seed: int

    def __call__(self, read: Callable[[int], Sample], count: int, epoch: int, index: int) -> Sample:
        """The index-th image as this epoch sees it; its randomness comes from (seed, epoch, its name) alone.

        Args:
            read: gives an image as stored, with its objects; mosaic and mixup ask for others too.
            count: how many there are.
        """
        sample = read(index)
        random = generator(self.seed, epoch, sample.name)
        height, width = sample.image.shape[-2:]
        fitted = self.input_size.scale(height, width)
        # All numbers are drawn, needed or not: one option must not change another's luck.
        draw, across, down, mirrored = torch.rand(4, generator=random).tolist()
        low, high = (math.log(zoom) for zoom in self.params.scale)
        sample = resize(sample, fitted * math.exp(low + draw * (high - low)))
        window = min(sample.image.shape[-2], round(height * fitted)), min(sample.image.shape[-1], round(width * fitted))
        if window != tuple(sample.image.shape[-2:]):
            top = int(down * (sample.image.shape[-2] - window[0] + 1))
            left = int(across * (sample.image.shape[-1] - window[1] + 1))
            sample = crop(sample, top, left, *window)
        return flip(sample) if mirrored < self.params.flip else sample


def generator(*key: object) -> torch.Generator:
    """A random generator that depends on the key alone, the same on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
