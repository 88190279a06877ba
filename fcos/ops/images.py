"""Operations on images: uint8 [3, H, W]."""

import torch
from torch.nn import functional as F


def resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resizes [3, H, W] to [3, height, width], keeping the type, with antialiasing."""
    if (height, width) == tuple(image.shape[-2:]):
        return image
    batch = image[None]
    if image.movedim(0, -1).is_contiguous():
        # With the stride of a larger batch, the result is channels-last as well, and its pixels need no second copy.
        batch = batch.as_strided(batch.shape, (image.numel(), *image.stride()))
    return F.interpolate(batch, (height, width), mode="bilinear", antialias=True)[0]
