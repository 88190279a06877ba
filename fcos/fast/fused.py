"""Fusion of a detector's layers for inference: fewer passes over memory, equal outputs within rounding."""

import copy
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fcos.backbones import Backbone
from fcos.backbones.efficientnet_lite import SameConv2d
from fcos.detector import Detector
from fcos.fast.tracing import fold, layer_of, rewrite
from fcos.head import Head
from fcos.ops.layers import FrozenBatchNorm2d

_ADDITIONS = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True)
class Activation:
    """What follows a convolution in the same pass: its name and scalars in oneDNN, and the same in torch."""

    name: str
    scalars: Sequence[float]
    plain: Callable[[Tensor], Tensor]


IDENTITY = Activation("none", (), lambda x: x)
RELU = Activation("relu", (), torch.relu_)
_ACTIVATIONS = (
    (RELU, (F.relu, torch.relu, nn.ReLU)),
    (Activation("hardtanh", (0.0, 6.0), lambda x: x.clamp_(0, 6)), (F.relu6, nn.ReLU6)),
    (Activation("hardswish", (), F.hardswish), (F.hardswish, nn.Hardswish)),
)


def fuse(detector: Detector) -> Detector:
    """Returns a fused copy in evaluation mode that cannot be trained; its outputs are equal within 1e-4.

    Batch norm is folded into the preceding convolution. A residual's addition and the activation after a convolution
    are computed with it, if no other layer uses the intermediate values. Blocks without batch norm, and blocks that
    torch.fx cannot trace, stay unchanged.
    """
    copied = copy.deepcopy(detector).eval().requires_grad_(False)
    _unfreeze_batch_norm(copied)
    # Backbone and head are not traced themselves: other code uses their attributes.
    rewrite(copied, nn.BatchNorm2d, _fuse, never=Backbone | Head | nn.ModuleList)
    return copied.to(memory_format=torch.channels_last)


class FusedConvolution(nn.Module):
    """activation(convolution(x)) or, for relu and the identity, activation(convolution(x) + other).

    On a CPU without gradients this is a single call of oneDNN; otherwise separate operations. torch itself leaves 1×1
    convolutions to a slower way if it has one thread.
    """

    def __init__(self, convolution: nn.Conv2d, activation: Activation) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to the output; `other` can be added to it."""
        layer, activation = self.convolution, self.activation
        if not _onednn(x) or (other is not None and other.shape != _output_shape(layer, x)):
            out: Tensor = layer(x)
            return activation.plain(out if other is None else out + other)
        if isinstance(layer, SameConv2d):
            x = layer.pad(x)
        shape = (layer.padding, layer.stride, layer.dilation, layer.groups)
        joined, scalars = torch.ops.mkldnn._convolution_pointwise, list(activation.scalars)
        result: Tensor
        if other is None:
            result = joined(x, layer.weight, layer.bias, *shape, activation.name, scalars, "")
        else:
            name = None if activation is IDENTITY else activation.name
            result = joined.binary(x, other, layer.weight, layer.bias, *shape, "add", 1.0, name, scalars, "")
        return result


def _output_shape(layer: nn.Conv2d, x: Tensor) -> tuple[int, ...]:
    sides = (
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, padding, dilation, kernel, stride in zip(
            x.shape[2:], tuple(map(int, layer.padding)), layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    )
    return (x.shape[0], layer.out_channels, *sides)


def _onednn(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # the compiler joins them itself, and can't trace the questions below
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _unfreeze_batch_norm(module: nn.Module) -> None:
    """Replaces frozen and synchronized batch norm by equivalent batch norm in evaluation mode."""
    for name, child in module.named_children():
        if isinstance(child, FrozenBatchNorm2d | nn.SyncBatchNorm):
            norm = nn.BatchNorm2d(len(child.weight), eps=child.eps, device=child.weight.device)
            norm.load_state_dict(norm.state_dict() | child.state_dict())
            setattr(module, name, norm.eval().requires_grad_(False))
        else:
            _unfreeze_batch_norm(child)


def _fuse(traced: fx.GraphModule) -> None:
    def merge(layer: nn.Module, norm: nn.Module) -> nn.Module | None:
        return fuse_conv_bn_eval(layer, norm) if isinstance(layer, nn.Conv2d) else None  # type: ignore[arg-type]

    fold(traced, nn.BatchNorm2d, merge)
    for node in list(traced.graph.nodes):
        if activation := _activation(traced, node):
            terms = _terms(node.args[0]) if activation is RELU else [node.args[0]]
            _join(traced, node, terms, activation)
    for node in list(traced.graph.nodes):
        if len(terms := _terms(node)) == 2:
            _join(traced, node, terms, IDENTITY)
    for node in list(traced.graph.nodes):
        if _is_pointwise(layer_of(traced, node)):
            _replace(traced, node, node, node.args, IDENTITY)


def _activation(traced: fx.GraphModule, node: fx.Node) -> Activation | None:
    called = {node.target, type(layer_of(traced, node))}
    return next((activation for activation, forms in _ACTIVATIONS if called.intersection(forms)), None)


def _join(traced: fx.GraphModule, node: fx.Node, terms: list[fx.Node], activation: Activation) -> None:
    """Replaces a node by a fused convolution, if one of the terms that it takes is a convolution."""
    # `a += b` changes a for its later users, so only the output of the convolution may be a.
    in_place = operator.iadd in (node.target, getattr(node.args[0], "target", None))
    source = next((term for term in (terms[:1] if in_place else terms) if _can_join(traced, term)), None)
    if source is not None:
        others = (term for term in terms if term is not source)
        _replace(traced, node, source, (source.args[0], *others), activation)


def _replace(
    traced: fx.GraphModule, node: fx.Node, source: fx.Node, inputs: Sequence[Any], activation: Activation
) -> None:
    """Calls a fused convolution with the source's layer instead of a node."""
    name = f"{source.target}.fused".replace(".", "_")
    layer = layer_of(traced, source)
    if not hasattr(traced, name):  # a layer may be called twice
        traced.add_submodule(name, FusedConvolution(layer, activation))  # type: ignore[arg-type]
    with traced.graph.inserting_before(node):
        joined = traced.graph.call_module(name, tuple(inputs))
    node.replace_all_uses_with(joined)
    traced.graph.erase_node(node)
    traced.graph.eliminate_dead_code()  # removes the unused addition and convolution


def _terms(node: fx.Node) -> list[fx.Node]:
    """The two terms of a sum that has a single user, or the node itself."""
    is_sum = node.target in _ADDITIONS and len(node.users) == 1 and not node.kwargs
    return list(node.all_input_nodes) if is_sum and len(node.all_input_nodes) == len(node.args) == 2 else [node]


def _can_join(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a plain convolution whose output has a single user."""
    return _is_plain(layer_of(traced, node)) and len(node.users) == 1


def _is_plain(layer: nn.Module | None) -> bool:
    plain = type(layer) in (nn.Conv2d, SameConv2d)
    return plain and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)  # type: ignore[union-attr]


def _is_pointwise(layer: nn.Module | None) -> bool:
    return isinstance(layer, nn.Conv2d) and _is_plain(layer) and set(layer.kernel_size) == {1}
