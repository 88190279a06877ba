"""Convolutions with what follows them: the necks' and the head's."""

import math
from collections.abc import Callable, Sequence

from torch import nn

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
    """A convolution that keeps the size (at stride 2: halves it, rounding up), then norm and activation if any."""
    layer = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2)
    following = [*NORMS[norm](channels_out), *ACTIVATIONS[activation]()]
    return nn.Sequential(layer, *following) if following else layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm (Wu and He, 1803.08494) in 32 groups, or fewer where those would be of a single channel each.

    Alone in its group, on a map of one cell, a channel would be nothing but its own mean.
    """
    groups = math.gcd(32, channels)
    return nn.GroupNorm(groups // 2 if groups == channels else groups, channels)
