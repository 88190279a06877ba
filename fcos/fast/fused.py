"""Fusion of a detector's layers for inference: fewer passes over memory, equal outputs within rounding."""

import copy
import operator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fcos.backbones import Backbone
from fcos.detector import Detector
from fcos.fast.tracing import fold, layer_of, rewrite
from fcos.head import Head
from fcos.ops.layers import FrozenBatchNorm2d

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_ACTIVATIONS = (F.relu, torch.relu)


def fuse(detector: Detector) -> Detector:
    """Returns a fused copy in evaluation mode that cannot be trained; its outputs are equal within 1e-4.

    Batch norm is folded into the preceding convolution. A residual's addition and relu after a convolution are computed
    with it, if no other layer uses the intermediate values. Blocks without batch norm, and blocks that torch.fx cannot
    trace, stay unchanged.
    """
    copied = copy.deepcopy(detector).eval().requires_grad_(False)
    _unfreeze_batch_norm(copied)
    # Backbone and head are not traced themselves: other code uses their attributes.
    rewrite(copied, nn.BatchNorm2d, _fuse, never=Backbone | Head | nn.ModuleList)
    return copied.to(memory_format=torch.channels_last)


class ConvolutionRelu(nn.Module):
    """relu(convolution(x)), or relu(convolution(x) + other).

    On a CPU without gradients this is a single call of oneDNN; otherwise separate operations.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """[B, C, H, W] to the output; `other` has the output's shape."""
        layer = self.convolution
        if not _onednn(x):
            out: Tensor = layer(x)
            return (out if other is None else out + other).relu_()
        shape = (layer.padding, layer.stride, layer.dilation, layer.groups)
        joined = torch.ops.mkldnn._convolution_pointwise
        result: Tensor
        if other is None:
            result = joined(x, layer.weight, layer.bias, *shape, "relu", [], "")
        else:
            result = joined.binary(x, other, layer.weight, layer.bias, *shape, "add", 1.0, "relu", [], "")
        return result


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
    _join_relu(traced)


def _join_relu(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        if node.target not in _ACTIVATIONS and type(layer_of(traced, node)) is not nn.ReLU:
            continue
        terms = _terms(node.args[0])
        # `a += b` changes a for its later users, so only the output of the convolution may be a.
        candidates = terms[:1] if node.args[0].target is operator.iadd else terms
        source = next((term for term in candidates if _can_join(traced, term)), None)
        if source is None:
            continue
        name = f"{source.target}.relu".replace(".", "_")
        traced.add_submodule(name, ConvolutionRelu(layer_of(traced, source)))  # type: ignore[arg-type]
        with traced.graph.inserting_before(node):
            joined = traced.graph.call_module(name, (source.args[0], *(term for term in terms if term is not source)))
        node.replace_all_uses_with(joined)
        traced.graph.erase_node(node)
        traced.graph.eliminate_dead_code()  # removes the unused addition and convolution


def _terms(node: fx.Node) -> list[fx.Node]:
    """The input of relu: the two terms of a sum that has no other user, or the node itself."""
    is_sum = node.target in _ADDITIONS and len(node.users) == 1 and not node.kwargs
    return list(node.all_input_nodes) if is_sum and len(node.all_input_nodes) == len(node.args) == 2 else [node]


def _can_join(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a plain convolution whose output has a single user."""
    layer = layer_of(traced, node)
    plain = type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return plain and len(node.users) == 1
