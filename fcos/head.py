"""The head, shared by all levels: class logits, box distances and quality of each location."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fcos.config import ModelConfig
from fcos.ops.layers import NORMS, depthwise

_PRIOR = 0.01  # initial probability of every class (Focal Loss, section 4.1)
# Initial distance from a location to each side of its box, in strides: relu has no gradient if it starts at 0.
_INITIAL_DISTANCE = 2.0


class Head(nn.Module):
    """Two towers of 3×3 convolutions with norm and ReLU, and their outputs (ICCV paper, section 3, and TPAMI).

    The towers' convolutions are standard ones, or depthwise separable.

    The box output x becomes distances in pixels, stride·relu(s·x) (TPAMI) or exp(s·x) (ICCV), with a learned scalar s
    for each level. With `distribution` (GFL, Li et al., 2006.04388, equation 5), distances are the means of
    distributions over 0, 1, …, `distribution_max` strides, whose probabilities are softmax(s·x). The quality output
    (centerness or IoU, depending on its targets) follows either tower and is optional.

    Args:
        config: towers, norm, box output, quality output, levels.
        num_classes: K.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.strides, self.box_output, self.quality_tower = config.strides, config.box_output, config.quality_tower
        # Without convolutions, a tower returns its input.
        width = (config.tower_channels or config.channels) if config.tower_depth else config.channels
        self.class_tower, self.box_tower = _tower(config, width), _tower(config, width)
        self.class_logits = nn.Conv2d(width, num_classes, 3, padding=1)
        self.bins = config.distribution_max + 1 if config.box_output == "distribution" else 1
        self.box = nn.Conv2d(width, 4 * self.bins, 3, padding=1)
        self.quality = None if config.quality == "none" else nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(config.levels)))
        self._initialize()

    def _initialize(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.groups == 1:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.class_logits.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]
        if self.box_output == "relu":
            nn.init.constant_(self.box.bias, _INITIAL_DISTANCE)  # type: ignore[arg-type]
        elif self.box_output == "distribution":
            # A geometric distribution, whose mean this is but for its cut-off tail.
            slope = math.log(_INITIAL_DISTANCE / (1 + _INITIAL_DISTANCE))
            with torch.no_grad():
                self.box.bias.copy_(slope * torch.arange(self.bins).repeat(4))  # type: ignore[union-attr]

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Pyramid levels [B, C, h, w] to the outputs of all P locations.

        Returns:
            Logits [B, P, K]; ltrb [B, P, 4] in pixels; quality logits [B, P] or None; the logits of the distances'
            distributions [B, P, 4, bins] or None.
        """
        class_features = [self.class_tower(level) for level in levels]
        box_features = [self.box_tower(level) for level in levels]
        logits = _per_location([self.class_logits(level) for level in class_features])
        boxes = [_per_location([self.box(level)]) for level in box_features]
        # exp and pixel coordinates need float32, also under autocast.
        scaled = [raw.float() * scale for raw, scale in zip(boxes, self.scales, strict=True)]
        ltrb = [self._distances(raw, stride) for raw, stride in zip(scaled, self.strides, strict=True)]
        distributions = self._distributions(torch.cat(scaled, dim=1)) if self.bins > 1 else None
        quality = None
        if self.quality is not None:
            features = class_features if self.quality_tower == "class" else box_features
            quality = _per_location([self.quality(level) for level in features]).squeeze(-1)
        return logits, torch.cat(ltrb, dim=1), quality, distributions

    def _distances(self, raw: Tensor, stride: int) -> Tensor:
        if self.box_output == "distribution":
            strides = torch.arange(self.bins, dtype=raw.dtype, device=raw.device)
            return (self._distributions(raw).softmax(dim=-1) * strides).sum(dim=-1) * stride
        return raw.exp() if self.box_output == "exp" else raw.relu() * stride

    def _distributions(self, raw: Tensor) -> Tensor:
        """[B, P, 4 · bins] to [B, P, 4, bins]."""
        return raw.reshape(*raw.shape[:-1], 4, self.bins)


def _tower(config: ModelConfig, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(config.tower_depth):
        layers += _convolution(config, width if index else config.channels, width)
        layers += [*NORMS[config.head_norm](width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _convolution(config: ModelConfig, channels_in: int, channels_out: int) -> list[nn.Module]:
    if config.tower_convolution == "depthwise":  # EfficientDet, 1911.09070, section 3.3: the norm follows both parts
        return [depthwise(channels_in, 3), nn.Conv2d(channels_in, channels_out, 1)]
    # With bias even before a norm, as in torchvision, so that its weights can be loaded.
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1)]


def _per_location(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, C, h, w] of all levels to [B, P, C], level by level and row by row."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in maps], dim=1)
