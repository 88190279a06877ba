"""A detector for inference alone: batch norm that no longer learns is folded into the convolution before it."""

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

from fcos.detector import Detector


def fused(detector: Detector) -> Detector:
    """A copy, in evaluation mode, that gives the same outputs but for rounding, sooner; it can't learn any more.

    A batch norm is folded where it is the only one to see a convolution's output. A part of a backbone whose data
    flow can't be traced stays as it is.
    """
    copied = copy.deepcopy(detector).eval().requires_grad_(False)
    copied.backbone.parts = nn.ModuleList(_folded(part) for part in copied.backbone.parts)
    for module in (copied.neck, copied.head):
        for name, child in list(module.named_modules()):
            if isinstance(child, nn.Sequential):
                module.set_submodule(name, _folded(child))
    return copied


def _folded(module: nn.Module) -> nn.Module:
    _thaw(module)
    try:
        traced = fx.symbolic_trace(module)
    except Exception:  # what a tracer meets in others' code is anything  # noqa: BLE001
        return module
    modules = dict(traced.named_modules())
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or type(modules[node.target]) is not nn.BatchNorm2d:
            continue
        source = node.args[0]
        alone = source.op == "call_module" and len(source.users) == 1 and calls[source.target] == calls[node.target] == 1
        if alone and type(modules[source.target]) is nn.Conv2d:
            traced.set_submodule(source.target, fuse_conv_bn_eval(modules[source.target], modules[node.target]))
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _thaw(module: nn.Module) -> None:
    """Frozen batch norm as batch norm in evaluation mode, which computes the same."""
    for name, child in module.named_children():
        if isinstance(child, FrozenBatchNorm2d):
            norm = nn.BatchNorm2d(len(child.weight), eps=child.eps).eval().requires_grad_(False)
            norm.load_state_dict(child.state_dict(), strict=False)
            setattr(module, name, norm.to(child.weight.device))
        else:
            _thaw(child)
