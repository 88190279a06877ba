"""Tracing of blocks with torch.fx, and replacement of their layers."""

from collections import Counter
from collections.abc import Callable
from types import UnionType

from torch import fx, nn

from fcos.ops.layers import FrozenBatchNorm2d


class _Tracer(fx.Tracer):
    """Traces into blocks but not into layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        layers = nn.Conv2d | nn.BatchNorm2d | FrozenBatchNorm2d
        return isinstance(m, layers) or super().is_leaf_module(m, module_qualified_name)


def trace(module: nn.Module) -> fx.GraphModule | None:
    """The module as a graph of its layers; None if it cannot be traced."""
    try:
        return fx.GraphModule(module, _Tracer().trace(module))
    except Exception:  # noqa: BLE001 — code of other libraries can fail in any way when traced
        return None


def layer_of(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The layer that a node calls, or None."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def rewrite(
    module: nn.Module, norm: type[nn.Module], change: Callable[[fx.GraphModule], None], *, never: type | UnionType
) -> None:
    """Replaces the blocks in a module that contain a norm by their traced and changed graphs.

    A block that cannot be traced is kept, and the blocks inside it are tried.

    Args:
        module: changed in place.
        norm: type of the norm.
        change: changes a traced block in place.
        never: types of blocks that are not traced themselves; the blocks inside them are.
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
    traced: fx.GraphModule, norm: type[nn.Module], merge: Callable[[nn.Module, nn.Module], nn.Module | None]
) -> None:
    """Replaces a layer and the norm after it by one layer, if the output of the first has no other user.

    Args:
        traced: changed in place.
        norm: exact type of the norm.
        merge: returns the replacement of a layer and its norm, or None to keep them.
    """
    calls = Counter(node.target for node in traced.graph.nodes)
    for node in list(traced.graph.nodes):
        after = layer_of(traced, node)
        if type(after) is not norm:
            continue
        source = node.args[0]
        before = layer_of(traced, source)
        single_use = len(source.users) == calls[source.target] == calls[node.target] == 1
        if single_use and before is not None and (merged := merge(before, after)) is not None:
            traced.set_submodule(source.target, merged)
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
