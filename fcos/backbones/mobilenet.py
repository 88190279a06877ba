"""MobileNetV2 (Sandler et al., 1801.04381) and MobileNetV3 (Howard et al., 1905.02244), by torchvision.

C5 is the layer before the pooling, as MobileNetV3's paper has it for detection (section 6.3).
"""

from itertools import pairwise
from typing import Any

from fcos.backbones.backbone import Backbone, backbone_of
from fcos.backbones.pretrained import torchvision_network


def mobilenet_v2(*, pretrained: bool | str) -> Backbone:
    """MobileNetV2 of width 1."""
    return _mobilenet("mobilenet_v2", (32, 96, 1280), (2, 4, 7, 14, 19), pretrained)


def mobilenet_v3_large(*, pretrained: bool | str) -> Backbone:
    """MobileNetV3-Large of width 1."""
    return _mobilenet("mobilenet_v3_large", (40, 112, 960), (2, 4, 7, 13, 17), pretrained)


def _mobilenet(
    name: str,
    channels: tuple[int, int, int],
    ends: tuple[int, ...],  # numbers of torchvision's blocks up to the end of the stem, C2, C3, C4 and C5
    pretrained: bool | str,
) -> Backbone:
    net: Any = torchvision_network(name, pretrained, classifier="classifier.")
    return backbone_of([net.features[start:end] for start, end in pairwise((0, *ends))], channels)
