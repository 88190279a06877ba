"""The head that all levels share: class logits, box distances and centerness of every location."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

_PRIOR = 0.01  # probability that every class starts with (Focal Loss, section 4.1)
_FIRST_SIDE = (
    2.0  # strides from a location to each side of its first box: relu mustn't start at 0, where it learns nothing
)


class Head(nn.Module):
    """Two towers of 3×3 convolutions with group norm; centerness on the box tower (ICCV paper, section 3, and TPAMI).

    Args:
        channels: of the pyramid and the towers.
        num_classes: K.
        depth: convolutions in each tower.
        strides: of the levels, in pixels.
        box_output: how the last layer's x becomes distances in pixels, s being a learnt scalar of the level:
            `relu`: stride·relu(s·x) (TPAMI), `exp`: exp(s·x) (ICCV).
    """

    def __init__(
        self, *, channels: int, num_classes: int, depth: int, strides: Sequence[int], box_output: Literal["relu", "exp"]
    ) -> None:
        super().__init__()
        self.strides, self.box_output = tuple(strides), box_output
        self.class_tower = _tower(channels, depth)
        self.box_tower = _tower(channels, depth)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, 4, 3, padding=1)
        self.quality = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(strides)))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.class_logits.bias = nn.Parameter(torch.full((num_classes,), -math.log((1 - _PRIOR) / _PRIOR)))
        if box_output == "relu":
            self.box.bias = nn.Parameter(torch.full((4,), _FIRST_SIDE))

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Pyramid levels [B, C, h, w] to logits [B, P, K], ltrb [B, P, 4] in pixels and centerness logits [B, P]."""
        logits, distances, centerness = [], [], []
        for level, stride, scale in zip(levels, self.strides, self.scales, strict=True):
            box_features = self.box_tower(level)
            logits.append(_per_location(self.class_logits(self.class_tower(level))))
            distances.append(self._distances(_per_location(self.box(box_features)), scale, stride))
            centerness.append(_per_location(self.quality(box_features)))
        return torch.cat(logits, dim=1), torch.cat(distances, dim=1), torch.cat(centerness, dim=1).squeeze(-1)

    def _distances(self, raw: Tensor, scale: Tensor, stride: int) -> Tensor:
        raw = raw.float() * scale  # exp and pixel coordinates need float32, also under autocast
        return raw.exp() if self.box_output == "exp" else raw.relu() * stride


def _tower(channels: int, depth: int) -> nn.Sequential:
    groups = math.gcd(32, channels)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _per_location(maps: Tensor) -> Tensor:
    """[B, C, h, w] to [B, h·w, C], row by row."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)
