"""The Feature Pyramid Network, and the parts that other necks share with it."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fcos.config import ModelConfig
from fcos.ops.layers import convolution


class FPN(nn.Module):
    """Feature Pyramid Network (Lin et al., 1612.03144), with P6 and P7 by stride-2 convolutions (RetinaNet, FCOS).

    The top-down path starts at C5 even if there is no output level P5, since finer levels need its context.

    Args:
        channels_in: of C3, C4, C5.
        config: channels, levels, input of the extra levels, norm and activation.
    """

    def __init__(self, channels_in: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.upsample_mode = config.upsample_mode
        self.lateral = laterals(channels_in, config)
        self.output = nn.ModuleList(
            neck_convolution(config.channels, config.channels, 3, config) for level in config.levels if level <= 5
        )
        self.extra = ExtraLevels(channels_in[-1], config)
        initialize(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """C3, C4, C5 to P3, P4, …, or from a later level on: [B, channels, ⌈H/s⌉, ⌈W/s⌉] each."""
        merged = apply_laterals(self.lateral, features)
        for finer in range(len(merged) - 2, -1, -1):
            merged[finer] = merged[finer] + enlarge(merged[finer + 1], merged[finer], self.upsample_mode)
        levels = [output(feature) for output, feature in zip(self.output, merged, strict=False)]
        return [*levels, *self.extra(features[-1], levels[-1])]


class ExtraLevels(nn.ModuleList):
    """P6 and P7, if the configuration has them: 3×3 convolutions with stride 2.

    P7 is computed from relu(P6) (RetinaNet, 1708.02002) if the neck's convolutions have no activation.
    """

    def __init__(self, c5_channels: int, config: ModelConfig) -> None:
        first = c5_channels if config.extra_levels_from == "c5" else config.channels
        super().__init__(
            neck_convolution(first if level == 6 else config.channels, config.channels, 3, config, stride=2)
            for level in config.levels
            if level > 5
        )
        self.from_c5, self.rectify = config.extra_levels_from == "c5", config.neck_activation == "none"

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        """C5 and P5 to P6, P7."""
        levels: list[Tensor] = []
        for layer in self:
            source = levels[-1] if levels else c5 if self.from_c5 else p5
            levels.append(layer(F.relu(source) if levels and self.rectify else source))
        return levels


def neck_convolution(
    channels_in: int, channels_out: int, kernel: int, config: ModelConfig, *, stride: int = 1
) -> nn.Module:
    """A convolution with the norm and activation of the configuration's neck."""
    return convolution(
        channels_in, channels_out, kernel, stride=stride, norm=config.neck_norm, activation=config.neck_activation
    )


def laterals(channels_in: Sequence[int], config: ModelConfig) -> nn.ModuleList:
    """1×1 convolutions from the features of the first level up to C5 to the neck's channels."""
    return nn.ModuleList(
        neck_convolution(channels, config.channels, 1, config) for channels in channels_in[config.levels[0] - 3 :]
    )


def apply_laterals(layers: nn.ModuleList, features: Sequence[Tensor]) -> list[Tensor]:
    """Applies each lateral convolution to its feature."""
    return [layer(feature) for layer, feature in zip(layers, features[-len(layers) :], strict=True)]


def enlarge(coarse: Tensor, fine: Tensor, mode: str) -> Tensor:
    """Resizes a coarse map to the size of a fine map, which may be odd."""
    return F.interpolate(coarse, size=fine.shape[-2:], mode=mode)


def initialize(neck: nn.Module) -> None:
    """Initializes weights with LeCun's variance, since usually no activation follows, and biases with 0."""
    for layer in neck.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
