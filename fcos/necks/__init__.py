"""Necks: C3, C4, C5 in, pyramid levels of equal width out."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Feature Pyramid Network (Lin et al., 1612.03144), with P6 and P7 by stride-2 convolutions (RetinaNet, FCOS).

    Args:
        channels_in: of C3, C4, C5.
        channels: of every level given out.
        levels: 3, 4, … without a gap, up to 7.
        extra_from: what P6 is made from.
    """

    def __init__(
        self, channels_in: Sequence[int], channels: int, levels: Sequence[int], extra_from: Literal["p5", "c5"]
    ) -> None:
        super().__init__()
        self.extra_from = extra_from
        used = [c for c, level in zip(channels_in, (3, 4, 5), strict=True) if level in levels]
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in used)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in used)
        first = channels_in[-1] if extra_from == "c5" else channels
        self.extra = nn.ModuleList(
            nn.Conv2d(first if level == 6 else channels, channels, 3, stride=2, padding=1)
            for level in levels
            if level > 5
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)  # LeCun's variance: no activation follows
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """C3, C4, C5 to P3, P4, …: [B, channels, ⌈H/s⌉, ⌈W/s⌉] each."""
        merged = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=False)]
        for finer in range(len(merged) - 2, -1, -1):
            # To the finer map's own size: it is odd where the image isn't a multiple of the stride.
            merged[finer] = merged[finer] + F.interpolate(merged[finer + 1], size=merged[finer].shape[-2:])
        levels = [output(feature) for output, feature in zip(self.output, merged, strict=True)]
        source = features[-1] if self.extra_from == "c5" else levels[-1]
        for index, layer in enumerate(self.extra):
            source = layer(F.relu(source) if index else source)
            levels.append(source)
        return levels


NECKS: dict[str, Callable[..., nn.Module]] = {"fpn": FPN}
