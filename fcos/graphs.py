"""A block's layers as a graph, to put others in their places (torch.fx)."""

from torch import fx, nn
from torchvision.ops import FrozenBatchNorm2d


class _Tracer(fx.Tracer):
    """Looks into blocks, not into layers, whatever their forward does."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layers = nn.Conv2d | nn.BatchNorm2d | FrozenBatchNorm2d
        return isinstance(m, layers) or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module) -> fx.GraphModule | None:
    """The module as a graph of its own layers; None where it can't be followed."""
    try:
        return fx.GraphModule(module, _Tracer().trace(module))
    except Exception:  # noqa: BLE001 — others' code can fail in any way under a tracer
        return None


def layer_of(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The layer that a node calls, if it calls one."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None
