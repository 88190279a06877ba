"""A detector for training alone: the same weights, in fewer passes over memory and fewer multiplications."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import FrozenBatchNorm2d

from fcos import winograd
from fcos.detector import Detector
from fcos.graphs import fold, rewrite
from fcos.layers import on_levels

# Below these, transforming tiles and weights costs more than the multiplications that are saved (measured, AVX-512).
_CHANNELS, _TILES = 2**14, 64  # input by output channels; tiles of all levels together


def twin(detector: Detector) -> Detector:
    """A detector that shares its parameters, buffers and layers with another; its outputs are equal but for rounding.

    Frozen batch norm is folded into the convolution before it, anew in each step: no pass of its own over the
    activations, and none of them kept for going backward. On a CPU, 3×3 convolutions that learn in float32 are
    Winograd's. The head's levels go through each of its convolutions together. What can't be traced keeps its form.
    """
    kept: list[object] = [*detector.parameters(), *detector.buffers()]
    kept += [layer for layer in detector.modules() if not any(layer.children())]
    copied = copy.deepcopy(detector, {id(each): each for each in kept})
    rewrite(copied.backbone, FrozenBatchNorm2d, _fold_norms, never=nn.ModuleList)
    for name in ("class_tower", "box_tower"):
        if type(tower := getattr(copied.head, name)) is nn.Sequential:
            setattr(copied.head, name, Tower(*tower))
    _replace(copied)
    return copied


class Convolution(nn.Module):
    """A convolution, and the frozen norm that follows it if any, as one convolution."""

    def __init__(self, layer: nn.Conv2d, norm: FrozenBatchNorm2d | None = None) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, K, ⌈h/stride⌉, ⌈w/stride⌉]."""
        return self.on_levels([x])[0]

    def on_levels(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Each level's output."""
        layer, (weight, bias) = self.layer, self._folded()
        if _winograd_pays(layer, levels):
            return winograd.convolve(levels, weight, bias)
        stride, padding, dilation = layer.stride, layer.padding, layer.dilation
        return [F.conv2d(level, weight, bias, stride, padding, dilation, layer.groups) for level in levels]

    def _folded(self) -> tuple[Tensor, Tensor | None]:
        weight, bias, norm = self.layer.weight, self.layer.bias, self.norm
        if norm is None:
            return weight, bias
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        mean = norm.running_mean if bias is None else norm.running_mean - bias
        return weight * scale[:, None, None, None], norm.bias - mean * scale


class Tower(nn.Sequential):
    """Layers that take all levels, one layer after the other."""

    def on_levels(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Each level's output."""
        outputs = list(levels)
        for layer in self:
            outputs = on_levels(layer, outputs)
        return outputs


def _winograd_pays(layer: nn.Conv2d, levels: Sequence[Tensor]) -> bool:
    return (
        layer.kernel_size == (3, 3)
        and layer.padding == layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.in_channels * layer.out_channels >= _CHANNELS
        and all(level.device.type == "cpu" and level.dtype == torch.float32 for level in levels)
        and not torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and winograd.tiles(levels) >= _TILES
    )


def _plain(layer: nn.Module | None) -> bool:
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros"


def _replace(module: nn.Module) -> None:
    """Every plain convolution inside by one of ours."""
    for name, child in module.named_children():
        if _plain(child):
            setattr(module, name, Convolution(child))  # type: ignore[arg-type]
        elif not isinstance(child, Convolution):
            _replace(child)


def _fold_norms(traced: fx.GraphModule) -> None:
    def joined(layer: nn.Module, norm: nn.Module) -> nn.Module | None:
        return Convolution(layer, norm) if _plain(layer) else None  # type: ignore[arg-type]

    fold(traced, FrozenBatchNorm2d, joined)
