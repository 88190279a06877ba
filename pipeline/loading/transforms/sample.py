"""An image with its objects, and the elementary transforms that the others are made of."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fcos.config import scaled
from fcos.ops.images import resized

# Color of pixels without image content: ImageNet's mean, which normalization maps to almost 0, the padding of a batch.
FILL = (124, 116, 104)
_MIN_VISIBLE_AREA = 0.25  # smallest fraction of an object's area that stays visible
_ROUNDING = 0.99


@dataclass(frozen=True)
class Sample:
    """One image and its objects, in pixels of the image."""

    image: Tensor  # uint8 [3, H, W]
    boxes: Tensor  # float32 [M, 4] x1, y1, x2, y2
    labels: Tensor  # int64 [M]
    name: str
    annotated: int = 0  # objects before augmentation, where known

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[-2], self.image.shape[-1]


def keep_visible(sample: Sample, image: Tensor, boxes: Tensor) -> Sample:
    """Replaces the image and the boxes; drops objects that are no longer visible, and clips the others to the image.

    All transforms share this rule: an object is visible if at least a quarter of its area is inside the image, and in
    each dimension at least one pixel, or the whole side if it is shorter. So an object that is entirely inside stays,
    however small it is.

    Args:
        boxes: [M, 4] positions of the sample's objects in the new image; they may extend beyond its edges.
    """
    clipped, visible = clip_visible(boxes, boxes.new_tensor([image.shape[-1], image.shape[-2]]), _MIN_VISIBLE_AREA)
    return replace(sample, image=image, boxes=clipped[visible], labels=sample.labels[visible])


def clip_visible(boxes: Tensor, size: Tensor, min_visibility: float) -> tuple[Tensor, Tensor]:
    """Clips boxes to an image, and tells which of them are visible in it: see `keep_visible`.

    Args:
        boxes: [..., 4] in pixels of the image; they may extend beyond its edges.
        size: [..., 2] width and height.
        min_visibility: smallest fraction of an object's area that is inside.

    Returns:
        The clipped boxes, [..., 4], and bool [...].
    """
    clipped = boxes.clamp(min=0).minimum(torch.cat([size, size], dim=-1))
    sides, full_sides = clipped[..., 2:] - clipped[..., :2], boxes[..., 2:] - boxes[..., :2]
    wide_enough = (sides >= full_sides.clamp(max=1) * _ROUNDING).all(dim=-1)
    return clipped, wide_enough & (sides.prod(dim=-1) >= full_sides.prod(dim=-1) * min_visibility)


def clip_boxes(sample: Sample) -> Sample:
    """Clips boxes to the image: annotations and rounding may exceed its edges by a thousandth of a pixel."""
    height, width = sample.size
    boxes = sample.boxes.clamp(min=0).minimum(sample.boxes.new_tensor([width, height, width, height]))
    return replace(sample, boxes=boxes)


def resize(sample: Sample, scale: float) -> Sample:
    """Resizes image and boxes. Sides are rounded to whole pixels, and boxes are scaled to the rounded sides."""
    (height, width), (new_height, new_width) = sample.size, scaled(*sample.size, scale)
    if (new_height, new_width) == (height, width):
        return sample
    # A window of an image is resized four times as fast if its pixels are contiguous, channels-last.
    image = sample.image[None].contiguous(memory_format=torch.channels_last)[0]
    factors = torch.tensor([new_width / width, new_height / height] * 2)
    return replace(sample, image=resized(image, new_height, new_width), boxes=sample.boxes * factors)


def flip(sample: Sample) -> Sample:
    """Mirrors the image horizontally."""
    width = sample.image.shape[-1]
    x1, y1, x2, y2 = sample.boxes.unbind(-1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=-1)
    return replace(sample, image=sample.image.flip(-1), boxes=boxes)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cuts out a window that lies inside the image; the result shares the image's memory."""
    image = sample.image[:, top : top + height, left : left + width]
    return keep_visible(sample, image, sample.boxes - sample.boxes.new_tensor([left, top, left, top]))
