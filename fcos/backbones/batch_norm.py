"""Modes of batch norm: frozen, trained, or synchronized over processes.

timm's batch norm layers also apply the activation, so they are converted by timm's functions.
"""

import importlib
from collections.abc import Callable
from typing import Literal

from torch import nn

from fcos.config import ModelConfig
from fcos.ops.layers import FrozenBatchNorm2d

Mode = Literal["frozen", "trained", "synchronized"]


def batch_norm_mode(config: ModelConfig) -> Mode:
    """Resolves `auto`: frozen if pretrained, since small batches would degrade ImageNet's statistics; else trained."""
    if config.batch_norm == "auto":
        return "frozen" if config.pretrained else "trained"
    return config.batch_norm


def convert_batch_norm(module: nn.Module, mode: Mode) -> None:
    """Converts all batch norms in a module to a mode; those whose weight is not trained are always frozen."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _MODES[mode if child.weight.requires_grad else "frozen"](child))
        else:
            convert_batch_norm(child, mode)


def _frozen(norm: nn.BatchNorm2d) -> nn.Module:
    if type(norm) is not nn.BatchNorm2d:
        converted: nn.Module = importlib.import_module("timm.layers").freeze_batch_norm_2d(norm)
        return converted
    frozen: nn.Module = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    frozen.load_state_dict({name: norm.state_dict()[name] for name in frozen.state_dict()})
    return frozen


def _trained(norm: nn.BatchNorm2d) -> nn.Module:
    return norm


def _synchronized(norm: nn.BatchNorm2d) -> nn.Module:
    plain = type(norm) is nn.BatchNorm2d
    convert = nn.SyncBatchNorm if plain else importlib.import_module("timm.layers")
    converted: nn.Module = convert.convert_sync_batchnorm(norm)
    return converted


_MODES: dict[Mode, Callable[[nn.BatchNorm2d], nn.Module]] = {
    "frozen": _frozen,
    "trained": _trained,
    "synchronized": _synchronized,
}
