"""A block's layers as a graph, to put others in their places (torch.fx)."""

from collections import Counter
from collections.abc import Callable
from types import UnionType

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


def rewrite(
    module: nn.Module, norm: type[nn.Module], change: Callable[[fx.GraphModule], None], *, never: type | UnionType
) -> None:
    """Replaces every block inside that has such a norm by its changed graph, as whole as it can be traced.

    Args:
        never: blocks of these types are not traced themselves, but those inside them.
    """
    for name, child in module.named_children():
        if not any(isinstance(layer, norm) for layer in child.modules()):
            continue
        traced = None if isinstance(child, never) else trace(child)
        if traced is None:
            rewrite(child, norm, change, never=never)
        else:
            change(traced)
            traced.delete_all_unused_submodules()
            traced.recompile()
            setattr(module, name, traced)


def fold(
    traced: fx.GraphModule, norm: type[nn.Module], joined: Callable[[nn.Module, nn.Module], nn.Module | None]
) -> None:
    """Puts one layer in the place of a layer and the norm after it, where nobody else sees what lies between.

    Args:
        norm: its exact type.
        joined: makes the layer of the two; None leaves them.
    """
    calls = Counter(node.target for node in traced.graph.nodes)
    for node in list(traced.graph.nodes):
        after = layer_of(traced, node)
        if type(after) is not norm:
            continue
        source = node.args[0]
        before = layer_of(traced, source)
        alone = len(source.users) == calls[source.target] == calls[node.target] == 1
        if alone and before is not None and (both := joined(before, after)) is not None:
            traced.set_submodule(source.target, both)
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
