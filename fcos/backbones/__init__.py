"""Backbones: an image in, its features C3, C4 and C5 (strides 8, 16, 32) out.

Each declares its channels and the normalisation that its weights were trained with.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d, misc

from fcos.backbones import efficientnet_lite

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Runs its parts one after the other and gives out what the last three give.

    Args:
        parts: the first ones lead to stride 4 or 8, the last three end at strides 8, 16 and 32.
        channels: of C3, C4, C5.
        mean, std: of the pixels, channel by channel, in 0…1.
    """

    def __init__(
        self, parts: Sequence[nn.Module], channels: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.channels = channels
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] normalised images to C3, C4, C5: [B, C, ⌈H/s⌉, ⌈W/s⌉] for strides s of 8, 16, 32."""
        features = [images]
        for part in self.parts:
            features.append(part(features[-1]))
        return tuple(features[-3:])


def tiny(*, pretrained: bool) -> Backbone:
    """Eight 3×3 convolutions with batch norm: learns simple objects in minutes on a CPU."""
    if pretrained:
        raise ValueError(
            "pretrained: there are no ImageNet weights for the backbone tiny; set model.pretrained to false"
        )
    stem = nn.Sequential(_convolution(3, 24, 2), _convolution(24, 48, 2))
    widths = (48, 64, 128, 192)
    stages = [nn.Sequential(_convolution(a, b, 2), _convolution(b, b, 1)) for a, b in pairwise(widths)]
    return Backbone([stem, *stages], (64, 128, 192), IMAGENET_MEAN, IMAGENET_STD)


def _convolution(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    layer: nn.Module = misc.Conv2dNormActivation(channels_in, channels_out, 3, stride, activation_layer=nn.ReLU)
    return layer


def resnet18(*, pretrained: bool) -> Backbone:
    """torchvision's ResNet-18."""
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1 if pretrained else None
    return _resnet(torchvision.models.resnet18, weights, (128, 256, 512))


def resnet50(*, pretrained: bool) -> Backbone:
    """torchvision's ResNet-50, the paper's backbone."""
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1 if pretrained else None
    return _resnet(torchvision.models.resnet50, weights, (512, 1024, 2048))


def _resnet(
    build: Callable[..., torchvision.models.ResNet], weights: object | None, channels: tuple[int, int, int]
) -> Backbone:
    try:
        net = build(weights=weights)
    except OSError as error:
        raise ValueError(
            f"pretrained: the ImageNet weights could not be fetched ({error}); "
            f"put {getattr(weights, 'url', '')} into {torch.hub.get_dir()}/checkpoints, or set it to false"
        ) from None
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    backbone = Backbone([stem, net.layer1, net.layer2, net.layer3, net.layer4], channels, IMAGENET_MEAN, IMAGENET_STD)
    if weights:
        freeze_batch_norm(backbone)
    return backbone


def efficientnet_lite0(*, pretrained: bool) -> Backbone:
    """EfficientNet-Lite0, with the ImageNet weights that a Python package carries: nothing to download."""
    parts, channels = efficientnet_lite.lite0(pretrained=pretrained)
    backbone = Backbone(parts, channels, efficientnet_lite.MEAN, efficientnet_lite.STD)
    if pretrained:
        freeze_batch_norm(backbone)
    return backbone


def freeze_batch_norm(module: nn.Module) -> None:
    """Replaces every batch norm inside by one whose statistics and weights stay as they are."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            frozen.load_state_dict({key: child.state_dict()[key] for key in frozen.state_dict()})
            setattr(module, name, frozen)
        else:
            freeze_batch_norm(child)


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "tiny": tiny,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "efficientnet_lite0": efficientnet_lite0,
}
