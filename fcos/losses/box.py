"""Box losses: one value for each pair of boxes [..., 4] (x1, y1, x2, y2), in strides of the predicting location."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos.ops.boxes import aligned_iou, hull_sides

_EPSILON = 1e-6


def iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """−ln(IoU) (UnitBox, 1608.01471; the FCOS paper's), at most 13.8, if the boxes do not intersect."""
    iou, _ = aligned_iou(predicted, target)
    return -iou.clamp(min=_EPSILON).log()


def linear_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 − IoU."""
    iou, _ = aligned_iou(predicted, target)
    return 1 - iou


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 − GIoU (Rezatofighi et al., 1902.09630, algorithm 1), in 0…2."""
    iou, union = aligned_iou(predicted, target)
    width, height = torch.unbind(hull_sides(predicted, target), dim=-1)
    hull = width * height
    return 1 - iou + (hull - union) / hull.clamp(min=torch.finfo(hull.dtype).tiny)


def diou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 − IoU + ρ²/c², in 0…2 (Zheng et al., 1911.08287, equation 7).

    ρ is the distance of the centers, c the diagonal of the smallest box around both.
    """
    iou, _ = aligned_iou(predicted, target)
    return 1 - iou + _distance(predicted, target)


def ciou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """DIoU loss + α·v, v comparing the aspect ratios (Zheng et al., 1911.08287, equations 8 to 11).

    As in the paper, no gradient flows through α.
    """
    iou, _ = aligned_iou(predicted, target)
    v = (_aspect(predicted) - _aspect(target)).square() * (4 / math.pi**2)
    with torch.no_grad():
        alpha = v / (1 - iou + v).clamp(min=_EPSILON)
    return 1 - iou + _distance(predicted, target) + alpha * v


def eiou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 − IoU + ρ²/c² + (w − w*)²/W² + (h − h*)²/H², in 0…4 (Zhang et al., 2101.08158, the EIOU loss).

    Instead of CIoU's aspect ratio, widths and heights are compared, relative to the width W and height H of the
    smallest box around both, c being its diagonal.
    """
    iou, _ = aligned_iou(predicted, target)
    difference = _sides(predicted) - _sides(target)
    relative = difference / hull_sides(predicted, target).clamp(min=torch.finfo(iou.dtype).tiny)
    return 1 - iou + _distance(predicted, target) + relative.square().sum(dim=-1)


def l1_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """|predicted − target|, averaged over the four sides."""
    return F.l1_loss(predicted, target, reduction="none").mean(dim=-1)


def smooth_l1_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Like l1, but ½·x² for differences x below one stride (Fast R-CNN, 1504.08083, equation 3)."""
    return F.smooth_l1_loss(predicted, target, reduction="none").mean(dim=-1)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of the centers divided by the squared diagonal of the hull."""
    low, high = torch.split(a - b, 2, dim=-1)
    diagonal = hull_sides(a, b).square().sum(dim=-1)
    return ((low + high) / 2).square().sum(dim=-1) / diagonal.clamp(min=torch.finfo(a.dtype).tiny)


def _sides(boxes: Tensor) -> Tensor:
    """Width and height [..., 2] of boxes [..., 4]."""
    low, high = torch.split(boxes, 2, dim=-1)
    return high - low


def _aspect(boxes: Tensor) -> Tensor:
    """arctan(width / height); an empty box counts as a tiny square."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=_EPSILON).unbind(dim=-1)
    return torch.atan2(width, height)


BOX_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou_loss,
    "linear_iou": linear_iou_loss,
    "giou": giou_loss,
    "diou": diou_loss,
    "ciou": ciou_loss,
    "eiou": eiou_loss,
    "l1": l1_loss,
    "smooth_l1": smooth_l1_loss,
}
