"""A small backbone without pretrained weights, which learns simple objects in minutes on a CPU."""

from itertools import pairwise

from torch import nn

from fcos.backbones.backbone import Backbone, backbone_of
from fcos.backbones.pretrained import fill


def tiny(*, pretrained: bool | str) -> Backbone:
    """Eight 3×3 convolutions with batch norm.

    Raises:
        ValueError: `pretrained` is true, or a file that isn't this network's.
    """
    if pretrained is True:
        raise ValueError("pretrained: there are no ImageNet weights for the backbone tiny; set it to false")
    widths = (48, 64, 128, 192)
    stages = [nn.Sequential(_convolution(a, b, 2), _convolution(b, b, 1)) for a, b in pairwise(widths)]
    backbone = backbone_of([_convolution(3, 24, 2), _convolution(24, 48, 2), *stages], (64, 128, 192))
    if pretrained:
        fill(backbone.parts, pretrained)
    return backbone


def _convolution(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    layer = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))
