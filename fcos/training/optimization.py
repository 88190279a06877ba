"""Optimizer and learning rate schedule, from torch's own parts."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
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

_FUSED = ("cpu", "cuda")  # devices on which all three optimizers are single kernels


def make_optimizer(
    model: nn.Module, *, name: Literal["sgd", "adam", "adamw"], lr: float, weight_decay: float, momentum: float
) -> Optimizer:
    """SGD with momentum, Adam or AdamW; weight decay on the weights of convolutions and linear layers alone.

    Norms' weights, biases, the levels' scales and a fusion's weights are left out: shrinking them only fights what
    they are for. So are a transformer's tables of positions, matrices though they are.
    """
    learned = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [parameter for path, parameter in learned if path.endswith("weight") and parameter.ndim > 1]
    free = [parameter for path, parameter in learned if not (path.endswith("weight") and parameter.ndim > 1)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    # One kernel, which also looks itself whether fp16's gradients overflowed: otherwise a GPU is waited for.
    fused = all(parameter.device.type in _FUSED for _, parameter in learned) or None
    if name == "sgd":
        return _with_momentum(SGD(groups, lr=lr, momentum=momentum, fused=fused))
    return (Adam if name == "adam" else AdamW)(groups, lr=lr, fused=fused)


def _with_momentum(optimizer: SGD) -> SGD:
    """Momentum from 0, which is what the first step gives anyway.

    Torch's own first step takes memory that nobody has filled, and keeps it where fp16's gradients overflowed; and it
    has no place for parameters that join later, such as those of a backbone frozen at first.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else []:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


Schedule = Literal["cosine", "one_cycle", "multi_step", "step", "constant"]


def make_schedule(
    optimizer: Optimizer, *, name: Schedule, steps: int, warmup: int, drops: Sequence[int], gamma: float
) -> LRScheduler:
    """Learning rate by step: a linear rise from a thousandth, then what the name says.

    `one_cycle` (Smith and Topin, 1708.07120) rises and falls along cosines, from a 25th; without a warm-up it only
    falls, as `cosine` does.

    Args:
        steps: of the whole training.
        warmup: the first of them, in which the rate rises; the peak is reached in the last step at the latest.
        drops: `multi_step`: the steps before which the rate is multiplied by gamma; `step`: the first of them, and
            every multiple of it. Those that fall into the warm-up count from its end on.
    """
    rising = min(warmup, steps - 1)
    if name == "one_cycle" and rising:
        peaks = [group["lr"] for group in optimizer.param_groups]
        # One more, so that the end of the fall comes after the last step, as the cosine's does.
        total = steps + 1
        return OneCycleLR(optimizer, peaks, total, pct_start=(rising + 1) / total, cycle_momentum=False)
    after = _AFTER[name](optimizer, steps - rising, [drop - rising for drop in _drops(name, drops, steps)], gamma)
    if rising == 0:
        return after
    return SequentialLR(optimizer, [LinearLR(optimizer, 1e-3, total_iters=rising), after], milestones=[rising])


def _drops(name: Schedule, drops: Sequence[int], steps: int) -> Sequence[int]:
    if name != "step":
        return drops
    every = max(1, drops[0])  # a share of a short training may round to none
    return range(every, steps, every)


def _cosine(optimizer: Optimizer, steps: int, _drops: Sequence[int], _gamma: float) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=steps)


def _multi_step(optimizer: Optimizer, _steps: int, drops: Sequence[int], gamma: float) -> LRScheduler:
    return MultiStepLR(optimizer, milestones=list(drops), gamma=gamma)


def _constant(optimizer: Optimizer, _steps: int, _drops: Sequence[int], _gamma: float) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0)


_AFTER: dict[str, Callable[[Optimizer, int, Sequence[int], float], LRScheduler]] = {
    "cosine": _cosine,
    "one_cycle": _cosine,
    "multi_step": _multi_step,
    "step": _multi_step,
    "constant": _constant,
}
