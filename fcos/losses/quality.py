"""Losses of the quality output, their lower limits, and the centerness target."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def centerness(ltrb: Tensor) -> Tensor:
    """Centerness of a location in its box: sqrt(min(l,r)/max(l,r) · min(t,b)/max(t,b)) (ICCV paper, equation 3).

    Args:
        ltrb: [..., 4] distances, each above 0.

    Returns:
        [...] from 0 at the border to 1 at the center.
    """
    left, top, right, bottom = ltrb.unbind(dim=-1)
    x = torch.minimum(left, right) / torch.maximum(left, right)
    y = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (x * y).sqrt()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of logits [...] against targets [...] in 0…1."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def entropy(probability: Tensor) -> Tensor:
    """Entropy of a Bernoulli distribution in nats: the lower limit of binary cross-entropy with this target."""
    return -(torch.xlogy(probability, probability) + torch.xlogy(1 - probability, 1 - probability))


def absolute_error(logits: Tensor, targets: Tensor) -> Tensor:
    """|σ(logit) − target|."""
    return (logits.sigmoid() - targets).abs()


@dataclass(frozen=True)
class QualityLoss:
    """An elementwise loss and its lower limit."""

    loss: Callable[[Tensor, Tensor], Tensor]  # logits [...], targets [...] in 0…1
    floor: Callable[[Tensor], Tensor]  # targets [...]


QUALITY_LOSSES: dict[str, QualityLoss] = {
    "bce": QualityLoss(cross_entropy, floor=entropy),
    "l1": QualityLoss(absolute_error, floor=torch.zeros_like),
}
