"""ResNet (He et al., 1512.03385) and ResNeXt (Xie et al., 1611.05431), by torchvision.

The first ImageNet weights, those of the published detectors: torchvision's FCOS and the papers build on their like.
"""

from typing import Any

from torch import nn

from fcos.backbones.backbone import Backbone, backbone_of
from fcos.backbones.pretrained import torchvision_network

_BASIC, _BOTTLENECK = (128, 256, 512), (512, 1024, 2048)  # channels of C3, C4, C5


def resnet18(*, pretrained: bool | str) -> Backbone:
    """ResNet-18."""
    return _resnet("resnet18", _BASIC, pretrained)


def resnet34(*, pretrained: bool | str) -> Backbone:
    """ResNet-34."""
    return _resnet("resnet34", _BASIC, pretrained)


def resnet50(*, pretrained: bool | str) -> Backbone:
    """ResNet-50, the paper's backbone."""
    return _resnet("resnet50", _BOTTLENECK, pretrained)


def resnet101(*, pretrained: bool | str) -> Backbone:
    """ResNet-101."""
    return _resnet("resnet101", _BOTTLENECK, pretrained)


def resnext50_32x4d(*, pretrained: bool | str) -> Backbone:
    """ResNeXt-50, 32 groups of width 4."""
    return _resnet("resnext50_32x4d", _BOTTLENECK, pretrained)


def resnext101_32x8d(*, pretrained: bool | str) -> Backbone:
    """ResNeXt-101, 32 groups of width 8."""
    return _resnet("resnext101_32x8d", _BOTTLENECK, pretrained)


def _resnet(name: str, channels: tuple[int, int, int], pretrained: bool | str) -> Backbone:
    net: Any = torchvision_network(name, pretrained, classifier="fc.")
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return backbone_of([stem, net.layer1, net.layer2, net.layer3, net.layer4], channels)
