"""Weighted bi-directional feature pyramid."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos.config import ModelConfig
from fcos.necks.fpn import ExtraLevels, apply_laterals, enlarge, initialize, laterals, neck_convolution

_LAYERS = 3  # as in EfficientDet-D0; larger models have more, for larger images and longer training
_EPSILON = 1e-4  # section 3.3


class BiFPN(nn.Module):
    """EfficientDet's neck (Tan et al., 1911.09070, section 3): three layers, each top-down and bottom-up.

    P6 and P7, if there are such levels, take part from the first layer on; P6 is computed from C5 or from its lateral.
    A depthwise separable convolution follows each fusion. For the paper's batch norm and SiLU, set `neck_norm` and
    `neck_activation`.

    Args:
        channels_in: of C3, C4, C5.
        config: see `FPN`.
    """

    def __init__(self, channels_in: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.lateral = laterals(channels_in, config)
        self.extra = ExtraLevels(channels_in[-1], config)
        inputs = len(self.lateral) + len(self.extra)
        # C5 takes part even if there is no output level P5; the last layer then omits it.
        outputs = [inputs] * (_LAYERS - 1) + [len(config.levels)]
        self.layers = nn.ModuleList(Layer(inputs, count, config) for count in outputs)
        initialize(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """C3, C4, C5 to P3, P4, …: [B, channels, ⌈H/s⌉, ⌈W/s⌉] each."""
        levels = apply_laterals(self.lateral, features)
        levels += self.extra(features[-1], levels[-1])
        for layer in self.layers:
            levels = layer(levels)
        return levels


class Layer(nn.Module):
    """From the coarsest level to the finest, then back, with a shortcut from each level's input (figure 3).

    Args:
        inputs: number of levels that the layer takes.
        outputs: number of levels that it returns, from the finest on.
    """

    def __init__(self, inputs: int, outputs: int, config: ModelConfig) -> None:
        super().__init__()
        self.upsample_mode = config.upsample_mode
        self.top_down = nn.ModuleList(Fusion(2, config) for _ in range(inputs - 1))
        # The coarsest level has no node on the way down.
        self.bottom_up = nn.ModuleList(Fusion(2 if i == inputs - 1 else 3, config) for i in range(1, outputs))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Takes and returns levels from fine to coarse."""
        down = list(levels)
        for i in range(len(levels) - 2, -1, -1):
            down[i] = self.top_down[i]([levels[i], enlarge(down[i + 1], levels[i], self.upsample_mode)])
        up = [down[0]]
        for i, fusion in enumerate(self.bottom_up, start=1):
            middle = [down[i]] if i < len(levels) - 1 else []
            up.append(fusion([levels[i], *middle, F.max_pool2d(up[-1], 3, stride=2, padding=1)]))
        return up


class Fusion(nn.Module):
    """Fast normalized fusion, Σ wᵢ·xᵢ / (ε + Σ wᵢ), where wᵢ is the ReLU of a parameter, followed by a convolution."""

    def __init__(self, count: int, config: ModelConfig) -> None:
        super().__init__()
        channels = config.channels
        self.weights = nn.Parameter(torch.ones(count))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = neck_convolution(channels, channels, 1, config)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of one shape to one such map."""
        weights = self.weights.relu()
        shares = weights / (weights.sum() + _EPSILON)
        fused = torch.stack([share * map for share, map in zip(shares, maps, strict=True)]).sum(dim=0)
        out: Tensor = self.pointwise(self.depthwise(fused))
        return out
