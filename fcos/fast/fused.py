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
from fcos.backbones.efficientnet_lite import SameConv2d, same_pads
from fcos.detector import Detector
from fcos.fast.tracing import fold, layer_of, rewrite
from fcos.head import Head
from fcos.ops.layers import FrozenBatchNorm2d

_ADDITIONS = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True)
class Activation:
    """What follows a convolution in the same pass: its name and scalars in oneDNN, and the same function in torch."""

    name: str
    scalars: Sequence[float]
    function: Callable[[Tensor], Tensor]


IDENTITY = Activation("none", (), nn.Identity())
RELU = Activation("relu", (), torch.relu_)
_ACTIVATIONS = (
    (RELU, (F.relu, torch.relu, nn.ReLU)),
    (Activation("hardtanh", (0.0, 6.0), F.relu6), (F.relu6, nn.ReLU6)),
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

    On a CPU without gradients this is a single call of oneDNN; otherwise separate operations. With one thread, torch
    itself uses a slower kernel for 1×1 convolutions.
    """

    def __init__(self, convolution: nn.Conv2d, activation: Activation) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to the output; `other` can be added to it."""
        layer, activation = self.convolution, self.activation
        if not _onednn(x) or (other is not None and other.shape != _output_shape(layer, x)):
            out: Tensor = layer(x)
            return activation.function(out if other is None else out + other)
        weight, padding = _symmetric(layer, x) if isinstance(layer, SameConv2d) else (layer.weight, layer.padding)
        geometry = (padding, layer.stride, layer.dilation, layer.groups)
        pointwise, scalars = torch.ops.mkldnn._convolution_pointwise, list(activation.scalars)
        result: Tensor
        if other is None:
            result = pointwise(x, weight, layer.bias, *geometry, activation.name, scalars, "")
        else:
            name = None if activation.name == IDENTITY.name else activation.name
            result = pointwise.binary(x, other, weight, layer.bias, *geometry, "add", 1.0, name, scalars, "")
        return result


def _symmetric(layer: SameConv2d, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Weights and padding of the same convolution with as much padding on both sides.

    Where one more pixel is needed behind than in front, the weights begin with zeros instead: oneDNN pads by itself if
    both sides are equal, and a padded copy of the features takes longer than the additional multiplications.
    """
    left, right, top, bottom = same_pads(layer, x)
    return F.pad(layer.weight, [right - left, 0, bottom - top, 0]), (bottom, right)


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
        not torch.compiler.is_compiling()  # the compiler joins them itself, and can't trace these conditions
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

    _remove_identities(traced)
    fold(traced, nn.BatchNorm2d, merge)
    for node in list(traced.graph.nodes):
        if activation := _activation(traced, node):
            before = node.args[0]
            joined = _join(traced, node, before, activation)
            if not joined and activation is RELU and len(before.users) == 1:  # oneDNN adds before relu only
                _join_sum(traced, node, before, activation)
    for node in list(traced.graph.nodes):
        _join_sum(traced, node, node, IDENTITY)
    for node in list(traced.graph.nodes):
        if _is_pointwise(layer_of(traced, node)) and _has_single_input(node):
            _replace(traced, node, node, node.args, IDENTITY)


def _remove_identities(traced: fx.GraphModule) -> None:
    """Removes layers that do nothing in evaluation mode, such as those that timm has in place of dropped paths."""
    for node in list(traced.graph.nodes):
        if type(layer_of(traced, node)) in (nn.Identity, nn.Dropout) and _has_single_input(node):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


def _activation(traced: fx.GraphModule, node: fx.Node) -> Activation | None:
    called = {node.target, type(layer_of(traced, node))}
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    return next((activation for activation, forms in _ACTIVATIONS if called.intersection(forms)), None)


def _join(traced: fx.GraphModule, node: fx.Node, source: fx.Node, activation: Activation) -> bool:
    """Replaces an activation after a convolution."""
    if not _can_join(traced, source, node):
        return False
    _replace(traced, node, source, source.args, activation)
    return True


def _join_sum(traced: fx.GraphModule, node: fx.Node, total: fx.Node, activation: Activation) -> None:
    """Replaces a node that is a sum, or the activation of one, if one of its two terms is a convolution."""
    terms = list(total.all_input_nodes)
    if total.target not in _ADDITIONS or total.kwargs or not len(terms) == len(total.args) == 2:
        return
    # `a += b` changes a for its later users, so only the output of the convolution may be a.
    candidates = terms[:1] if total.target is operator.iadd else terms
    source = next((term for term in candidates if _can_join(traced, term, node)), None)
    if source is not None:
        (other,) = (term for term in terms if term is not source)
        _replace(traced, node, source, (source.args[0], other), activation)


def _replace(
    traced: fx.GraphModule, node: fx.Node, source: fx.Node, inputs: Sequence[Any], activation: Activation
) -> None:
    """Calls a fused convolution with the source's layer instead of a node."""
    name = f"{source.target}.{activation.name}".replace(".", "_")
    if not hasattr(traced, name):  # a layer may be called twice
        traced.add_submodule(name, FusedConvolution(layer_of(traced, source), activation))  # type: ignore[arg-type]
    with traced.graph.inserting_before(node):
        fused = traced.graph.call_module(name, tuple(inputs))
    node.replace_all_uses_with(fused)
    traced.graph.erase_node(node)
    traced.graph.eliminate_dead_code()  # removes the unused addition and convolution


def _can_join(traced: fx.GraphModule, source: fx.Node, node: fx.Node) -> bool:
    """Whether the source is a plain convolution that may be computed at a later node, which alone uses its output."""
    return (
        _is_plain(layer_of(traced, source))
        and _has_single_input(source)
        and len(source.users) == 1
        and not _is_changed_between(traced, source.args[0], source, node)  # type: ignore[arg-type]
    )


def _is_changed_between(traced: fx.GraphModule, value: fx.Node, first: fx.Node, last: fx.Node) -> bool:
    """Whether a node between two others changes a value in place."""
    order = {node: index for index, node in enumerate(traced.graph.nodes)}
    between = (user for user in value.users if order[first] < order[user] < order[last])
    return any(_is_in_place(traced, user) for user in between)


def _is_in_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (
        bool(node.kwargs.get("inplace"))
        or getattr(layer_of(traced, node), "inplace", False)
        or node.target in (operator.iadd, operator.isub, operator.imul, operator.itruediv)
        or (node.op != "call_module" and name.endswith("_"))
    )


def _has_single_input(node: fx.Node) -> bool:
    return len(node.args) == 1 and isinstance(node.args[0], fx.Node) and not node.kwargs


def _is_plain(layer: nn.Module | None) -> bool:
    plain = type(layer) in (nn.Conv2d, SameConv2d)
    return plain and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)  # type: ignore[union-attr]


def _is_pointwise(layer: nn.Module | None) -> bool:
    return isinstance(layer, nn.Conv2d) and _is_plain(layer) and set(layer.kernel_size) == {1}
