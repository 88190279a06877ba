"""A weight-sharing view of a detector for training: the same parameters, in fewer passes over memory."""

import copy

import torch.nn.functional as F
from torch import Tensor, fx, nn

from fcos.backbones.efficientnet_lite import SameConv2d, pad_same
from fcos.detector import Detector
from fcos.fast.depthwise import depthwise_conv2d, is_depthwise
from fcos.fast.group_norm import group_norm
from fcos.fast.tracing import fold, rewrite
from fcos.ops.layers import FrozenBatchNorm2d


def training_view(detector: Detector) -> Detector:
    """Returns a detector that shares parameters, buffers and layers with another; outputs are equal but for rounding.

    Each frozen batch norm is folded into the convolution before it, again in every step. This saves one pass over the
    activations, and the backward pass does not have to store them. Blocks that torch.fx cannot trace stay unchanged.
    Depthwise convolutions and group norms get gradients that are fast on a CPU.
    """
    shared: list[object] = [*detector.parameters(), *detector.buffers()]
    shared += [layer for layer in detector.modules() if not any(layer.children())]
    view = copy.deepcopy(detector, {id(item): item for item in shared})
    rewrite(view.backbone, FrozenBatchNorm2d, _fold_norms, never=nn.ModuleList)
    _replace_layers(view)
    return view


class FoldedConvolution(nn.Module):
    """A convolution and the frozen batch norm that follows it, computed as one convolution."""

    def __init__(self, layer: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, K, ⌈h/stride⌉, ⌈w/stride⌉]."""
        layer, norm = self.layer, self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        mean = norm.running_mean if layer.bias is None else norm.running_mean - layer.bias
        return _convolve(layer, x, layer.weight * scale[:, None, None, None], norm.bias - mean * scale)


class DepthwiseConvolution(nn.Module):
    """A depthwise convolution without a frozen batch norm after it."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C, ⌈h/stride⌉, ⌈w/stride⌉]."""
        return _convolve(self.layer, x, self.layer.weight, self.layer.bias)


class GroupNorm(nn.Module):
    """A group norm with scale and shift."""

    def __init__(self, layer: nn.GroupNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        layer = self.layer
        return group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)


def _convolve(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer's convolution with other weights."""
    x = pad_same(layer, x) if _pads_as_tensorflow(layer) else x
    if is_depthwise(layer):
        return depthwise_conv2d(x, weight, bias, stride=layer.stride, padding=layer.padding)  # type: ignore[arg-type]
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _fold_norms(traced: fx.GraphModule) -> None:
    def merge(layer: nn.Module, norm: nn.Module) -> nn.Module | None:
        return FoldedConvolution(layer, norm) if _is_plain(layer) else None  # type: ignore[arg-type]

    fold(traced, FrozenBatchNorm2d, merge)


def _replace_layers(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, FoldedConvolution):
            continue
        if _is_plain(child) and is_depthwise(child):  # type: ignore[arg-type]
            setattr(module, name, DepthwiseConvolution(child))  # type: ignore[arg-type]
        elif type(child) is nn.GroupNorm and child.affine:
            setattr(module, name, GroupNorm(child))
        else:
            _replace_layers(child)


def _is_plain(layer: nn.Module) -> bool:
    """Whether `_convolve` can compute a layer."""
    known = type(layer) is nn.Conv2d or _pads_as_tensorflow(layer)
    return known and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _pads_as_tensorflow(layer: nn.Module) -> bool:
    # timm's layer, by its name: timm is not a dependency.
    return isinstance(layer, SameConv2d) or type(layer).__name__ == "Conv2dSame"
