"""Optimiser and learning rate schedule, from torch's own parts."""

from collections.abc import Sequence
from typing import Literal

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, SequentialLR


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
        return SGD(groups, lr=lr, momentum=momentum)
    return (Adam if name == "adam" else AdamW)(groups, lr=lr)


def make_schedule(
    optimizer: Optimizer, *, name: Literal["cosine", "step"], steps: int, warmup: float, drops: Sequence[float]
) -> LRScheduler:
    """Learning rate by step: a linear rise, then a cosine to zero or drops to a tenth.

    Args:
        steps: of the whole training.
        warmup: share of them in which the rate rises, from a thousandth.
        drops: `step` alone: the shares of the training after which the rate falls.
    """
    rising = min(round(steps * warmup), steps - 1)
    if name == "cosine":
        after: LRScheduler = CosineAnnealingLR(optimizer, T_max=steps - rising)
    else:
        after = MultiStepLR(optimizer, milestones=[round(steps * drop) - rising for drop in drops])
    if rising == 0:
        return after
    return SequentialLR(optimizer, [LinearLR(optimizer, 1e-3, total_iters=rising), after], milestones=[rising])
