"""Images in the form that OpenCV takes, whose operations on whole images are several times as fast as Pillow's."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.uint8]  # [H, W, 3] RGB or [H, W]


@cache
def opencv() -> Any:
    """The module cv2, imported when it is first needed.

    It is set to one thread in the whole process: the loader's workers, or torch's threads, share the cores already.
    """
    import cv2

    cv2.setNumThreads(0)
    return cv2


def to_array(image: Tensor) -> Pixels:
    """uint8 [3, H, W] as an array [H, W, 3], contiguous."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def from_array(pixels: Pixels) -> Tensor:
    """An array [H, W, 3] as uint8 [3, H, W], with channels-last memory layout; both share their memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)
