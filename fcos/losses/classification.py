"""Classification losses: their elementwise definitions, and their sum and gradient in one pass over the logits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of one chunk. On a CPU, each thread's part fits into its cache and is large enough to keep the overhead of
# threads small. On other devices, chunks only limit the memory of intermediate results.
_CHUNK_PER_THREAD = 2**17
_CHUNK_ON_DEVICE = 2**25


class Elementwise(Protocol):
    """A loss of logits [...] and targets [...] in 0…1, element by element."""

    def __call__(self, logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor: ...


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Focal loss (Lin et al., 1708.02002, equation 5), element by element.

    Args:
        logits: [...].
        targets: [...] of 0 and 1, of the logits' type.
        alpha: weight of the positive class; 1 − alpha of the negative.
        gamma: exponent that reduces the loss of well-classified elements.
    """
    probability = logits.sigmoid()
    wrong = probability + targets - 2 * probability * targets  # 1 − p of the true class
    weight = (1 - alpha) + (2 * alpha - 1) * targets
    return weight * _power(wrong, gamma) * _cross_entropy(logits, targets)


def quality_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:  # noqa: ARG001
    """Quality focal loss, |σ − y|^γ · BCE (Li et al., GFL, 2006.04388, equation 2), element by element.

    Args:
        logits: [...].
        targets: [...] in 0…1, of the logits' type.
        alpha: not used.
        gamma: exponent that reduces the loss of well-estimated elements; β in the paper.
    """
    return _power((logits.sigmoid() - targets).abs(), gamma) * _cross_entropy(logits, targets)


def varifocal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Varifocal loss: q · BCE if q > 0, else α · p^γ · BCE (Zhang et al., 2008.13367, equation 2), element by element.

    Args:
        logits: [...].
        targets: [...] in 0…1, of the logits' type.
        alpha: weight of the negatives.
        gamma: exponent that reduces the loss of easy negatives.
    """
    weight = torch.where(targets > 0, targets, alpha * _power(logits.sigmoid(), gamma))
    return weight * _cross_entropy(logits, targets)


@dataclass(frozen=True)
class ClassificationLoss:
    """A classification loss whose background term is weight · p^γ · softplus(logit), as in all of these losses."""

    elementwise: Elementwise
    background: Callable[[float], float]  # weight of background, given alpha
    soft: bool  # targets may lie between 0 and 1

    def summed(self, logits: Tensor, labels: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
        """The sum of `elementwise` over all logits, as a scalar, float32 or wider.

        Value and gradient are computed in one pass over the logits: first as if every location were background, then
        the assigned class of each location is corrected. No tensor of targets [..., K] is needed.

        Args:
            logits: [..., K].
            labels: [...] int64 in 0…K−1, the assigned classes, valid also where the target is 0.
            targets: [...] float32 in 0…1, the target of the assigned class; 0: the location is background.

        Raises:
            RuntimeError: in a second backward pass, or for a second derivative.
        """
        elementwise = partial(self.elementwise, alpha=alpha, gamma=gamma)
        total: Tensor = _Sum.apply(logits, labels, targets, elementwise, self.background(alpha), gamma)
        return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        targets: Tensor,
        elementwise: Callable[[Tensor, Tensor], Tensor],
        weight: float,
        gamma: float,
    ) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        # Not in half precision: many values would underflow before the gradient scaler multiplies them.
        gradient = torch.empty(logits.shape, dtype=wide, device=logits.device) if ctx.needs_input_grad[0] else None
        background = _background(logits.reshape(-1), gradient, weight, gamma)
        assigned = logits.gather(-1, labels[..., None]).squeeze(-1).to(wide)
        difference, slope = _correction(assigned, targets.to(wide), elementwise)
        if gradient is not None:
            ctx.dtype = logits.dtype
            ctx.gradient = gradient.scatter_add_(-1, labels[..., None], slope[..., None])
        return background + difference

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradient is None or torch.is_grad_enabled():
            raise RuntimeError("the sum of a classification loss supports one backward pass and no second derivative")
        # In place, and released afterwards: the gradient is as large as the logits.
        gradient, ctx.gradient = ctx.gradient.mul_(scale).to(ctx.dtype), None
        return gradient, None, None, None, None, None


def _background(logits: Tensor, gradient: Tensor | None, weight: float, gamma: float) -> Tensor:
    """Σ weight · p^γ · softplus over logits [N]; its derivative is written to `gradient`."""
    size = _CHUNK_PER_THREAD * torch.get_num_threads() if logits.device.type == "cpu" else _CHUNK_ON_DEVICE
    parts = torch.split(logits, size)
    slopes = [None] * len(parts) if gradient is None else torch.split(gradient.view(-1), size)
    sums = [_chunk(part, slope, weight, gamma) for part, slope in zip(parts, slopes, strict=True)]
    return torch.stack(sums).sum()


def _chunk(logits: Tensor, slope: Tensor | None, weight: float, gamma: float) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    p, softplus = logits.sigmoid(), F.softplus(logits)
    focus = p.pow(gamma).mul_(weight)
    total = torch.dot(focus, softplus)
    if slope is not None:  # weight · p^γ · (γ · (1 − p) · softplus + p)
        softplus.addcmul_(softplus, p, value=-1)
        torch.mul(focus, p.add_(softplus, alpha=gamma), out=slope)
    return total


def _correction(
    assigned: Tensor, targets: Tensor, elementwise: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Sum of the assigned classes' losses minus their losses as background, and its derivative by their logits."""
    with torch.enable_grad():
        assigned = assigned.detach().requires_grad_()
        difference = (elementwise(assigned, targets) - elementwise(assigned, torch.zeros_like(targets))).sum()
    (slope,) = torch.autograd.grad(difference, assigned)
    return difference.detach(), slope


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _power(base: Tensor, exponent: float) -> Tensor:
    """A power whose derivative at 0 is finite even for exponents below 1."""
    return base.clamp(min=torch.finfo(base.dtype).tiny) ** exponent


CLASSIFICATION_LOSSES: dict[str, ClassificationLoss] = {
    "focal": ClassificationLoss(sigmoid_focal_loss, background=lambda alpha: 1 - alpha, soft=False),
    "quality_focal": ClassificationLoss(quality_focal_loss, background=lambda _: 1.0, soft=True),
    "varifocal": ClassificationLoss(varifocal_loss, background=lambda alpha: alpha, soft=True),
}
