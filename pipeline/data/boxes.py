"""Conversion between the two box notations, [x, y, width, height] and [x1, y1, x2, y2], in pixel-edge coordinates."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import Annotation

if TYPE_CHECKING:
    import torch

# One coordinate of one box, or of many: a column of an array or a tensor.
Coordinate = TypeVar("Coordinate", float, NDArray[np.float64], "torch.Tensor")


def xywh_to_xyxy(
    box: Iterable[Coordinate],
) -> tuple[Coordinate, Coordinate, Coordinate, Coordinate]:
    """Converts (x, y, width, height) to (x1, y1, x2, y2).

    The four values are numbers, or columns of many boxes: `array.T` of an array [N, 4], `tensor.unbind(-1)` of a
    tensor [..., 4].
    """
    x, y, width, height = box
    return x, y, x + width, y + height


def xyxy_to_xywh(
    box: Iterable[Coordinate],
) -> tuple[Coordinate, Coordinate, Coordinate, Coordinate]:
    """Converts (x1, y1, x2, y2) to (x, y, width, height), the inverse of `xywh_to_xyxy`."""
    x1, y1, x2, y2 = box
    return x1, y1, x2 - x1, y2 - y1


def box_tensor(annotations: Sequence[Annotation]) -> "torch.Tensor":
    """The boxes of N annotations as float32 [N, 4]: x1, y1, x2, y2 in pixels of the stored image."""
    import torch  # here, since evaluation and FiftyOne do without it

    boxes = torch.tensor([annotation.bbox for annotation in annotations], dtype=torch.float32).view(-1, 4)
    return torch.stack(xywh_to_xyxy(boxes.unbind(-1)), dim=-1)
