"""Path Aggregation Network."""

from collections.abc import Sequence

from torch import Tensor, nn

from fcos.config import ModelConfig
from fcos.necks.fpn import FPN, initialize, neck_convolution


class PAN(nn.Module):
    """PANet's neck (Liu et al., 1803.01534, section 3.1): an FPN followed by a bottom-up path.

    The finest N is P; each coarser N is conv(P + stride-2 conv(finer N)), also for P6 and P7. For the paper's ReLU
    after each convolution, set `neck_activation`.

    Args:
        channels_in: of C3, C4, C5.
        config: see `FPN`.
    """

    def __init__(self, channels_in: Sequence[int], config: ModelConfig) -> None:
        super().__init__()
        self.fpn = FPN(channels_in, config)
        width, steps = config.channels, len(config.levels) - 1
        self.down = nn.ModuleList(neck_convolution(width, width, 3, config, stride=2) for _ in range(steps))
        self.fuse = nn.ModuleList(neck_convolution(width, width, 3, config) for _ in range(steps))
        initialize(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """C3, C4, C5 to N3, N4, …: [B, channels, ⌈H/s⌉, ⌈W/s⌉] each."""
        finest, *coarser = self.fpn(features)
        levels: list[Tensor] = [finest]
        for level, down, fuse in zip(coarser, self.down, self.fuse, strict=True):
            levels.append(fuse(level + down(levels[-1])))
        return levels
