"""The quality branch: what it learns, how it is judged, and what it can't go below."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def centerness(ltrb: Tensor) -> Tensor:
    """How central a location is in its box: sqrt(min(l,r)/max(l,r) · min(t,b)/max(t,b)) (ICCV paper, equation 3).

    Args:
        ltrb: [..., 4] distances, each above 0.

    Returns:
        [...] from 0 at the border to 1 at the center.
    """
    left, top, right, bottom = ltrb.unbind(dim=-1)
    x = torch.minimum(left, right) / torch.maximum(left, right)
    y = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (x * y).sqrt()


def cross_entropy(logits: Tensor, goals: Tensor) -> Tensor:
    """Binary cross-entropy of logits [...] against goals [...] in 0…1."""
    return F.binary_cross_entropy_with_logits(logits, goals, reduction="none")


def entropy(probability: Tensor) -> Tensor:
    """Of a coin with this probability, in nats: what binary cross-entropy against it can't go below."""
    return -(torch.xlogy(probability, probability) + torch.xlogy(1 - probability, 1 - probability))


def absolute_error(logits: Tensor, goals: Tensor) -> Tensor:
    """|σ(logit) − goal|."""
    return (logits.sigmoid() - goals).abs()


@dataclass(frozen=True)
class QualityLoss:
    """A loss, location by location, and its lower limit."""

    loss: Callable[[Tensor, Tensor], Tensor]  # logits [...], goals [...] in 0…1
    floor: Callable[[Tensor], Tensor]  # goals [...]


QUALITY_LOSSES: dict[str, QualityLoss] = {
    "bce": QualityLoss(cross_entropy, floor=entropy),
    "l1": QualityLoss(absolute_error, floor=torch.zeros_like),
}
