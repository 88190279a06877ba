"""Convolutions with norm and activation, for necks and head, and frozen batch norm."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

NORMS: dict[str, Callable[[int], Sequence[nn.Module]]] = {
    "none": lambda channels: [],  # noqa: ARG005
    "group": lambda channels: [group_norm(channels)],
    "batch": lambda channels: [nn.BatchNorm2d(channels)],
}
ACTIVATIONS: dict[str, Callable[[], Sequence[nn.Module]]] = {
    "none": lambda: [],
    "relu": lambda: [nn.ReLU(inplace=True)],
    "silu": lambda: [nn.SiLU(inplace=True)],
}


def convolution(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, norm: str = "none", activation: str = "none"
) -> nn.Module:
    """A convolution with padding that keeps the size (stride 2: halves it, rounding up), then norm and activation."""
    layer = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2)
    following = [*NORMS[norm](channels_out), *ACTIVATIONS[activation]()]
    return nn.Sequential(layer, *following) if following else layer


def depthwise(channels: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    """A convolution of each channel by itself, without bias: with a 1×1 convolution after it, it is separable.

    Its initial weights have LeCun's variance, so that the output has about the variance of the input.
    """
    layer = nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2, groups=channels, bias=False)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm (Wu and He, 1803.08494) in 32 groups, or fewer so that a group has at least two channels.

    On a map of one cell, a group of a single channel would always be normalized to 0.
    """
    groups = math.gcd(32, channels)
    return nn.GroupNorm(groups // 2 if groups == channels else groups, channels)


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics, scale and shift: buffers with the names of `nn.BatchNorm2d`'s tensors."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        tensors = (self.weight, self.bias, self.running_mean, self.running_var)
        weight, bias, mean, variance = (tensor.reshape(1, -1, 1, 1) for tensor in tensors)
        scale = weight * (variance + self.eps).rsqrt()
        return x * scale + (bias - mean * scale)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"
