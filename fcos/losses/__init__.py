"""Losses, one value a pair or a location: who calls them weighs and sums them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos.boxes import aligned_iou


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., 1708.02002, equation 5), element by element.

    Args:
        logits: [...].
        targets: [...] of 0 and 1, of the logits' type.
        alpha: weight of the positive class; 1 − alpha of the negative.
        gamma: how much well-classified elements count less.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    wrong = probability + targets - 2 * probability * targets  # 1 − p of the true class
    weight = (1 - alpha) + (2 * alpha - 1) * targets
    return weight * wrong**gamma * cross_entropy


def iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """−ln(IoU) (UnitBox, 1608.01471; the FCOS paper's), pair by pair.

    Args:
        predicted, target: [..., 4] boxes (x1, y1, x2, y2) in pixels.

    Returns:
        [...], at most 13.8, where the boxes don't touch.
    """
    iou, _ = aligned_iou(predicted, target)
    return -iou.clamp(min=1e-6).log()


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 − GIoU (Rezatofighi et al., 1902.09630, algorithm 1), pair by pair: [..., 4] boxes to [...] in 0…2."""
    iou, union = aligned_iou(predicted, target)
    low = torch.minimum(predicted[..., :2], target[..., :2])
    high = torch.maximum(predicted[..., 2:], target[..., 2:])
    hull = (high - low).clamp(min=0).prod(dim=-1)
    return 1 - iou + (hull - union) / hull.clamp(min=torch.finfo(hull.dtype).tiny)


def centerness(ltrb: Tensor) -> Tensor:
    """How central a location is in its box: sqrt(min(l,r)/max(l,r) · min(t,b)/max(t,b)) (ICCV paper, equation 3).

    Args:
        ltrb: [..., 4] distances, each above 0.

    Returns:
        [...] from 0 at the border to 1 at the centre.
    """
    x, y = ltrb[..., 0::2], ltrb[..., 1::2]
    return ((x.amin(dim=-1) / x.amax(dim=-1)) * (y.amin(dim=-1) / y.amax(dim=-1))).sqrt()


def entropy(probability: Tensor) -> Tensor:
    """Of a coin with this probability, in nats: what binary cross-entropy against it can't go below."""
    return -(torch.xlogy(probability, probability) + torch.xlogy(1 - probability, 1 - probability))


BOX_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"iou": iou_loss, "giou": giou_loss}
