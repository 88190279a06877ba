"""A weight-sharing view of a detector for training: the same parameters, in fewer passes over memory."""

import copy

import torch.nn.functional as F
from torch import Tensor, fx, nn

from fcos.detector import Detector
from fcos.fast.tracing import fold, rewrite
from fcos.ops.layers import FrozenBatchNorm2d


def training_view(detector: Detector) -> Detector:
    """Returns a detector that shares parameters, buffers and layers with another; outputs are equal but for rounding.

    Each frozen batch norm is folded into the convolution before it, again in every step. This saves one pass over the
    activations, and the backward pass does not have to store them. Blocks that torch.fx cannot trace stay unchanged.
    """
    shared: list[object] = [*detector.parameters(), *detector.buffers()]
    shared += [layer for layer in detector.modules() if not any(layer.children())]
    view = copy.deepcopy(detector, {id(item): item for item in shared})
    rewrite(view.backbone, FrozenBatchNorm2d, _fold_norms, never=nn.ModuleList)
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
        weight, bias = layer.weight * scale[:, None, None, None], norm.bias - mean * scale
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _fold_norms(traced: fx.GraphModule) -> None:
    def merge(layer: nn.Module, norm: nn.Module) -> nn.Module | None:
        plain = type(layer) is nn.Conv2d and layer.padding_mode == "zeros"
        return FoldedConvolution(layer, norm) if plain else None  # type: ignore[arg-type]

    fold(traced, FrozenBatchNorm2d, merge)
