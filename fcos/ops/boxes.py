"""Box arithmetic: (x1, y1, x2, y2) in pixel-edge coordinates, and ltrb, distances from a location to the sides."""

import torch
from torch import Tensor


def ltrb_from_boxes(locations: Tensor, boxes: Tensor) -> Tensor:
    """Distances from locations to the left, top, right and bottom sides of boxes (ICCV paper, equation 1).

    Args:
        locations: [..., 2] x, y in pixels.
        boxes: [..., 4], broadcastable against the locations.

    Returns:
        [..., 4] pixels; negative where the location lies outside that side.
    """
    return torch.cat([locations - boxes[..., :2], boxes[..., 2:] - locations], dim=-1)


def boxes_from_ltrb(locations: Tensor, ltrb: Tensor) -> Tensor:
    """The inverse of `ltrb_from_boxes`: [..., 2] and [..., 4] to boxes [..., 4]."""
    return torch.cat([locations - ltrb[..., :2], locations + ltrb[..., 2:]], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Areas [...] in square pixels of boxes [..., 4]; 0 for an inverted box."""
    return _area_between(*_corners(boxes))


def contains(boxes: Tensor, locations: Tensor) -> Tensor:
    """Whether locations lie inside boxes, not on their sides: [..., 4] and [..., 2], broadcastable, to bool [...]."""
    x, y = locations.unbind(dim=-1)
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return (x > x1) & (y > y1) & (x < x2) & (y < y2)


def aligned_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of pairs of boxes, and the area of their union.

    Args:
        a, b: [..., 4] boxes, broadcastable against each other.

    Returns:
        IoU [...] in 0…1, 0 if both boxes are empty; union [...] in square pixels.
    """
    (low_a, high_a), (low_b, high_b) = _corners(a), _corners(b)
    intersection = _area_between(torch.maximum(low_a, low_b), torch.minimum(high_a, high_b))
    union = area(a) + area(b) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny), union


def hull_sides(a: Tensor, b: Tensor) -> Tensor:
    """Width and height [..., 2] of the smallest boxes around both of each pair of boxes [..., 4]."""
    (low_a, high_a), (low_b, high_b) = _corners(a), _corners(b)
    return (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).clamp(min=0)


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    # A split instead of two slices: the gradient of a slice is a whole tensor of zeros.
    low, high = torch.split(boxes, 2, dim=-1)
    return low, high


def _area_between(low: Tensor, high: Tensor) -> Tensor:
    # Not prod(): its gradient searches for zeros, which waits for the GPU.
    width, height = torch.unbind((high - low).clamp(min=0), dim=-1)
    return width * height


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Clips boxes [..., 4] to an image of this size."""
    limit = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limit)
