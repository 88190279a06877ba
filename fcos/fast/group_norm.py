"""Group norm for training on a CPU, with a gradient in a few vectorized passes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm (Wu and He, 1803.08494), equal to `F.group_norm`.

    On a CPU, torch's gradient of 16-bit features takes several times as long as this one, which computes in float32
    (docs/performance.md). On other devices, in float64, and for other shapes than images', the gradient is
    torch's.

    Args:
        x: [B, C, H, W], or another shape that begins with [B, C].
        weight: [C].
        bias: [C].
    """
    if x.device.type == "cpu" and x.dtype != torch.float64 and x.dim() == 4:
        out: Tensor = _GroupNorm.apply(x, groups, weight, bias, eps)
        return out
    return F.group_norm(x, groups, weight, bias, eps)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        images, channels, height, width = x.shape
        size = (images, channels, height * width, groups)
        out, mean, scale = torch.native_group_norm(x, weight, bias, *size, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, from y = w·s·(x − m) + b with each group's mean m and s = 1 / deviation."""
        x, weight, mean, scale = ctx.saved_tensors
        dtype, channels = x.dtype, x.shape[1] // mean.shape[1]  # channels of a group
        x, grad, mean, scale = x.float(), grad.float(), mean.float(), scale.float()
        dot, grad_bias = (grad * x).sum((2, 3)), grad.sum((2, 3))  # [B, C]
        grad_weight = (dot - grad_bias * _spread(mean, channels)) * _spread(scale, channels)

        # dx = g·w·s + x·p + q, where p and q are what m and s, as functions of x, contribute; all [B, G].
        cells = x.shape[2] * x.shape[3] * channels
        dot, total = ((value * weight).unflatten(1, (-1, channels)).sum(-1) for value in (dot, grad_bias))
        p = (total * mean - dot) * scale**3 / cells
        q = -p * mean - total * scale / cells
        factors = (weight * _spread(scale, channels), _spread(p, channels), _spread(q, channels))
        of_grad, of_x, constant = (factor[:, :, None, None] for factor in factors)
        grad_x = torch.addcmul(torch.addcmul(constant, x, of_x), grad, of_grad)
        return grad_x.to(dtype), None, grad_weight.sum(0).to(weight.dtype), grad_bias.sum(0).to(weight.dtype), None


def _spread(values: Tensor, channels: int) -> Tensor:
    """[B, G] to [B, C]: each group's value for each of its channels."""
    return values.repeat_interleave(channels, dim=1)
