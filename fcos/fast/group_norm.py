"""Group norm for training on a CPU, with a gradient in a few vectorized passes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Cells of a map, from which on the other gradient is computed. On maps of a few cells its terms nearly cancel, which
# 16 bits can't represent, and torch's is fast enough.
_LARGE = 64


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm (Wu and He, 1803.08494), equal to `F.group_norm`.

    On a CPU, torch's gradient takes twice as long as this one in float32, and 5 times in bf16 (docs/performance.md);
    for other types, other devices and small maps it is torch's.

    Args:
        x: [B, C, H, W].
        weight: [C].
        bias: [C].
    """
    is_large = x.dtype in (torch.float32, torch.bfloat16) and x.shape[2] * x.shape[3] >= _LARGE
    if (
        is_large and x.device.type == "cpu" and not torch.compiler.is_compiling()
    ):  # which can't trace the other gradient
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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        channels = x.shape[1] // mean.shape[1]  # of a group
        mean, scale = mean.float(), scale.float()  # [B, G]; the scale is 1 / deviation
        dot = (gradient * x).sum((2, 3), dtype=torch.float32)  # [B, C]
        total = gradient.sum((2, 3), dtype=torch.float32)  # [B, C]
        of_bias = total.sum(0)
        of_weight = ((dot - total * _spread(mean, channels)) * _spread(scale, channels)).sum(0)

        # With y = w·s·(x − m) + b: dx = g·w·s + x·p + q, where p and q are what m and s, as functions of x, add.
        dot, total = ((value * weight).unflatten(1, (-1, channels)).sum(-1) for value in (dot, total))  # [B, G]
        cells = x.shape[2] * x.shape[3] * channels
        p = (total * mean - dot) * scale**3 / cells
        q = -p * mean - total * scale / cells
        own, p, q = (
            value.to(x.dtype)[:, :, None, None]
            for value in (weight * _spread(scale, channels), _spread(p, channels), _spread(q, channels))
        )
        of_x = torch.addcmul(torch.addcmul(q, x, p), gradient, own)
        return of_x, None, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None


def _spread(values: Tensor, channels: int) -> Tensor:
    """[B, G] to [B, C]: each group's value for each of its channels."""
    return values.repeat_interleave(channels, dim=1)
