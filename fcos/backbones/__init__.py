"""Backbones: from images to the features C3, C4 and C5 (strides 8, 16, 32).

A backbone declares its channels, its strides and the normalization that its weights were trained with.
"""

from collections.abc import Callable

from fcos.backbones.backbone import Backbone
from fcos.backbones.batch_norm import batch_norm_mode, convert_batch_norm
from fcos.backbones.efficientnet_lite import efficientnet_lite0, efficientnet_lite1, efficientnet_lite2
from fcos.backbones.mobilenet import mobilenet_v2, mobilenet_v3_large
from fcos.backbones.resnet import resnet18, resnet34, resnet50, resnet101, resnext50_32x4d, resnext101_32x8d
from fcos.backbones.timm import timm_backbone
from fcos.backbones.tiny import tiny
from fcos.config import ModelConfig

__all__ = ["BACKBONES", "Backbone", "build_backbone"]

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "tiny": tiny,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnext50_32x4d": resnext50_32x4d,
    "resnext101_32x8d": resnext101_32x8d,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": mobilenet_v3_large,
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite1": efficientnet_lite1,
    "efficientnet_lite2": efficientnet_lite2,
}


def build_backbone(config: ModelConfig) -> Backbone:
    """Builds a backbone from its configuration, with its weights, batch norm and frozen stages.

    Raises:
        ValueError: the backbone is unknown, its weights cannot be loaded, or it has fewer stages than `frozen_stages`.
    """
    if config.backbone in BACKBONES:
        backbone = BACKBONES[config.backbone](pretrained=config.pretrained)
    else:
        backbone = timm_backbone(config.backbone.removeprefix("timm:"), pretrained=config.pretrained)
    _freeze_stages(backbone, config)
    convert_batch_norm(backbone, batch_norm_mode(config))
    return backbone


def _freeze_stages(backbone: Backbone, config: ModelConfig) -> None:
    stages = len(backbone.stages)
    if config.frozen_stages > stages:
        raise ValueError(f"frozen_stages: {config.frozen_stages}, but {config.backbone} has {stages} stages")
    frozen = frozenset[str]().union(*backbone.stages[: config.frozen_stages])
    for name, parameter in backbone.parts.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
