"""Path aggregation with cross-stage partial blocks of depthwise convolutions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fcos.config import ModelConfig
from fcos.necks.fpn import ExtraLevels, apply_laterals, enlarge, initialize, laterals, neck_convolution
from fcos.ops.layers import depthwise

_KERNEL = 5  # of all depthwise convolutions (section 3.2)


class CSPPAN(nn.Module):
    """PicoDet's neck (Yu et al., 2111.00902, section 3.2): top-down and bottom-up, each fusion by concatenation.

    All levels have the same number of channels. A cross-stage partial block follows each concatenation, and P6 and P7
    follow the path upward. For the paper's batch norm and hard-swish, set `neck_norm` and `neck_activation`.

    Args:
        channels_in: of C3, C4, C5.
        config: see `FPN`.
    """

    def __init__(self, channels_in: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.upsample_mode = config.upsample_mode
        self.lateral = laterals(channels_in, config)
        count = len(self.lateral)
        self.top_down = nn.ModuleList(CrossStagePartial(config) for _ in range(count - 1))
        # C5 takes part on the way down even if there is no output level P5.
        steps = sum(level <= 5 for level in config.levels) - 1
        self.down = nn.ModuleList(_separable(config, stride=2) for _ in range(steps))
        self.bottom_up = nn.ModuleList(CrossStagePartial(config) for _ in range(steps))
        self.extra = ExtraLevels(channels_in[-1], config)
        initialize(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """C3, C4, C5 to N3, N4, …: [B, channels, ⌈H/s⌉, ⌈W/s⌉] each."""
        merged = apply_laterals(self.lateral, features)
        for finer in range(len(merged) - 2, -1, -1):
            context = enlarge(merged[finer + 1], merged[finer], self.upsample_mode)
            merged[finer] = self.top_down[finer](torch.cat([context, merged[finer]], dim=1))
        levels = [merged[0]]
        for level, down, fuse in zip(merged[1:], self.down, self.bottom_up, strict=False):
            levels.append(fuse(torch.cat([down(levels[-1]), level], dim=1)))
        return [*levels, *self.extra(features[-1], levels[-1])]


class CrossStagePartial(nn.Module):
    """Half of the channels through a separable convolution, half past it, then both together (CSPNet, 1911.11929)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.channels
        self.main = neck_convolution(2 * width, width // 2, 1, config)
        self.shortcut = neck_convolution(2 * width, width // 2, 1, config)
        self.depthwise = depthwise(width // 2, _KERNEL)
        self.pointwise = neck_convolution(width // 2, width // 2, 1, config)
        self.output = neck_convolution(width, width, 1, config)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2 · channels, h, w] to [B, channels, h, w]."""
        main = self.pointwise(self.depthwise(self.main(x)))
        out: Tensor = self.output(torch.cat([main, self.shortcut(x)], dim=1))
        return out


def _separable(config: ModelConfig, *, stride: int) -> nn.Sequential:
    width = config.channels
    return nn.Sequential(depthwise(width, _KERNEL, stride=stride), neck_convolution(width, width, 1, config))
