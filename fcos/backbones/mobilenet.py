"""MobileNetV2 (Sandler et al., 1801.04381) and MobileNetV3 (Howard et al., 1905.02244), by torchvision.

C5 is the layer before the pooling, as MobileNetV3's paper has it for detection (section 6.3).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from torch import nn
from torchvision import models

from fcos.backbones.backbone import Backbone, backbone_of
from fcos.backbones.pretrained import torchvision_network


def mobilenet_v2(*, pretrained: bool | str) -> Backbone:
    """MobileNetV2 of width 1."""
    weights = models.MobileNet_V2_Weights.IMAGENET1K_V1
    return _mobilenet(models.mobilenet_v2, weights, (32, 96, 1280), (2, 4, 7, 14, 19), pretrained)


def mobilenet_v3_large(*, pretrained: bool | str) -> Backbone:
    """MobileNetV3-Large of width 1."""
    weights = models.MobileNet_V3_Large_Weights.IMAGENET1K_V1
    return _mobilenet(models.mobilenet_v3_large, weights, (40, 112, 960), (2, 4, 7, 13, 17), pretrained)


def _mobilenet(
    build: Callable[..., nn.Module],
    weights: object,
    channels: tuple[int, int, int],
    ends: tuple[int, ...],  # how many of torchvision's blocks make the stem, C2, C3, C4, C5
    pretrained: bool | str,
) -> Backbone:
    net: Any = torchvision_network(build, weights, pretrained, classifier="classifier.")
    return backbone_of([net.features[start:end] for start, end in pairwise((0, *ends))], channels)
