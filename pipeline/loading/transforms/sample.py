"""An image with its objects, and the plain changes that others are made of."""

from dataclasses import dataclass, replace

import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from fcos.config import scaled
from pipeline.data.images import resized

# What comes into view where there is no image: ImageNet's mean color, which the detector's normalization makes almost
# 0, as the padding of a batch is.
FILL = (124, 116, 104)
_SEEN = 0.25  # least share of an object's area that stays visible
_ROUNDING = 0.99


@dataclass(frozen=True)
class Sample:
    """One image and its objects, in the image's own pixels."""

    image: Tensor  # uint8 [3, H, W]
    boxes: Tensor  # float32 [M, 4] x1, y1, x2, y2
    labels: Tensor  # int64 [M]
    name: str
    annotated: int = 0  # objects that the image had before it was changed, where that is known

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[-2], self.image.shape[-1]


def with_visible(sample: Sample, image: Tensor, boxes: Tensor) -> Sample:
    """The sample with a new image, and with those of its objects that can be seen there, cut at the image's edges.

    The one rule for all changes: at least a quarter of an object's area stays, and a pixel of each side, or of the
    whole side where that is shorter. So an object that is whole stays, however small.

    Args:
        boxes: [M, 4] where the sample's objects are in the new image, also beyond its edges.
    """
    cut = inside(replace(sample, image=image, boxes=boxes)).boxes
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    wide_enough = (sides >= whole.clamp(max=1) * _ROUNDING).all(dim=-1)
    seen = wide_enough & (sides.prod(dim=-1) >= whole.prod(dim=-1) * _SEEN)
    return replace(sample, image=image, boxes=cut[seen], labels=sample.labels[seen])


def inside(sample: Sample) -> Sample:
    """With no box over the image's edge, where annotations and rounding may carry it by a thousandth of a pixel."""
    height, width = sample.size
    boxes = sample.boxes.clamp(min=0).minimum(sample.boxes.new_tensor([width, height, width, height]))
    return replace(sample, boxes=boxes)


def resize(sample: Sample, scale: float) -> Sample:
    """Resizes image and boxes; sides are rounded to whole pixels, and boxes follow the rounded sides."""
    (height, width), (new_height, new_width) = sample.size, scaled(*sample.size, scale)
    if (new_height, new_width) == (height, width):
        return sample
    # torchvision takes a cut-out four times as fast with its pixels close together, colors innermost.
    image = sample.image[None].contiguous(memory_format=torch.channels_last)[0]
    factors = torch.tensor([new_width / width, new_height / height] * 2)
    return replace(sample, image=resized(image, new_height, new_width), boxes=sample.boxes * factors)


def flip(sample: Sample) -> Sample:
    """Mirrors left and right."""
    width = sample.image.shape[-1]
    x1, y1, x2, y2 = sample.boxes.unbind(-1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=-1)
    return replace(sample, image=functional.horizontal_flip(sample.image), boxes=boxes)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cuts out a window inside the image, without copying it."""
    image = sample.image[:, top : top + height, left : left + width]
    return with_visible(sample, image, sample.boxes - sample.boxes.new_tensor([left, top, left, top]))


def picture(image: Tensor) -> PIL.Image.Image:
    """uint8 [3, H, W] as Pillow has it: several times as fast as tensors at what torchvision does to either."""
    answer: PIL.Image.Image = functional.to_pil_image(image)
    return answer


def pixels(image: PIL.Image.Image) -> Tensor:
    """Back again."""
    answer: Tensor = functional.pil_to_tensor(image)
    return answer
