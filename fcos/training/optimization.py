"""Optimiser and learning rate schedule, from torch's own parts."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)


def make_optimizer(
    model: nn.Module, *, name: Literal["sgd", "adam", "adamw"], lr: float, weight_decay: float, momentum: float
) -> Optimizer:
    """SGD with momentum, Adam or AdamW; weight decay on weights of convolutions alone.

    Norms' weights, biases and the levels' scales are vectors: shrinking them only fights what they are for.
    """
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=momentum, fused=True)  # one pass over the weights, not four
    return (Adam if name == "adam" else AdamW)(groups, lr=lr, fused=True)


Schedule = Literal["cosine", "one_cycle", "multi_step", "step", "constant"]


def make_schedule(
    optimizer: Optimizer, *, name: Schedule, steps: int, warmup: int, drops: Sequence[int], gamma: float
) -> LRScheduler:
    """Learning rate by step: a linear rise from a thousandth, then what the name says.

    Args:
        steps: of the whole training.
        warmup: the first of them, in which the rate rises; fewer than all.
        drops: `multi_step`: the steps before which the rate is multiplied by gamma; `step`: the first of them, and
            every multiple of it.
    """
    rising = min(warmup, steps - 1)
    if name == "one_cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, peaks, steps, pct_start=rising / steps, cycle_momentum=False)
    after = _AFTER[name](optimizer, steps - rising, [drop - rising for drop in _drops(name, drops, steps)], gamma)
    if rising == 0:
        return after
    return SequentialLR(optimizer, [LinearLR(optimizer, 1e-3, total_iters=rising), after], milestones=[rising])


def _drops(name: Schedule, drops: Sequence[int], steps: int) -> Sequence[int]:
    return range(drops[0], steps, drops[0]) if name == "step" else drops


def _cosine(optimizer: Optimizer, steps: int, _drops: Sequence[int], _gamma: float) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=steps)


def _multi_step(optimizer: Optimizer, _steps: int, drops: Sequence[int], gamma: float) -> LRScheduler:
    return MultiStepLR(optimizer, milestones=list(drops), gamma=gamma)


def _constant(optimizer: Optimizer, _steps: int, _drops: Sequence[int], _gamma: float) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0)


_AFTER: dict[str, Callable[[Optimizer, int, Sequence[int], float], LRScheduler]] = {
    "cosine": _cosine,
    "multi_step": _multi_step,
    "step": _multi_step,
    "constant": _constant,
}
