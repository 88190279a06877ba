"""Optimizers and learning rate schedules, built from torch's."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from fcos.training.muon import Muon

_FUSED = ("cpu", "cuda")  # devices on which torch's three optimizers have a fused kernel
_OUTPUTS = ("head.class_logits", "head.box", "head.quality")  # layers that Muon's authors leave to AdamW
_IMAGE_CHANNELS = 3  # of the first convolution's input, which they leave to AdamW too


def make_optimizer(
    model: nn.Module,
    *,
    name: Literal["sgd", "adam", "adamw", "muon"],
    lr: float,
    weight_decay: float,
    momentum: float,
    backbone_lr_factor: float = 1.0,
) -> Optimizer:
    """SGD with momentum, Adam, AdamW or Muon; weight decay applies only to weights of convolutions and linear layers.

    Biases, weights of norms, the head's scales, BiFPN's fusion weights and position embeddings are not decayed.

    Args:
        backbone_lr_factor: the learning rate of the model's part `backbone` is `lr` times this. With a factor other
            than 1, its parameters are in groups of their own, after those of the other parts.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [parameter for path, parameter in trained if path.endswith("weight") and parameter.ndim > 1]
    not_decayed = [parameter for path, parameter in trained if not (path.endswith("weight") and parameter.ndim > 1)]
    slower = {parameter for path, parameter in trained if path.startswith("backbone.") and backbone_lr_factor != 1}

    def divide(*groups: dict[str, Any]) -> list[dict[str, Any]]:
        divided = [{**group, "params": [p for p in group["params"] if p not in slower]} for group in groups]
        if slower:
            backbone = {"lr": lr * backbone_lr_factor}
            divided += [{**g, **backbone, "params": [p for p in g["params"] if p in slower]} for g in groups]
        return divided

    groups = divide({"params": decayed, "weight_decay": weight_decay}, {"params": not_decayed, "weight_decay": 0.0})
    # The fused kernel checks by itself whether fp16's gradients overflowed; otherwise the GPU must be waited for.
    fused = all(parameter.device.type in _FUSED for _, parameter in trained) or None
    if name == "sgd":
        return _with_momentum(SGD(groups, lr=lr, momentum=momentum, fused=fused))
    if name == "muon":
        matrices = _hidden_weights(model)
        hidden = set(matrices)
        others = [{**group, "params": [p for p in group["params"] if p not in hidden]} for group in groups]
        return Muon(divide({"params": matrices, "weight_decay": weight_decay}), others, lr=lr, fused=fused)
    return (Adam if name == "adam" else AdamW)(groups, lr=lr, fused=fused)


def _hidden_weights(model: nn.Module) -> list[Tensor]:
    """Trained weights of ungrouped convolutions and linear layers, but not of the first layer and the outputs."""
    return [
        layer.weight
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.requires_grad and path not in _OUTPUTS
        if getattr(layer, "groups", 1) == 1 and layer.weight.shape[1] > _IMAGE_CHANNELS
    ]


def _with_momentum(optimizer: SGD) -> SGD:
    """Initializes the momentum buffers with 0, which is equivalent to torch's first step.

    torch's fused SGD allocates them uninitialized in its first step and keeps them so if fp16's gradients overflow
    there. It also has no buffers for parameters that are trained later, as those of a backbone frozen at first.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else []:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def load_moments(optimizer: Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Loads the moments of another optimizer of the same kind, and keeps the learning rate and the other settings.

    Args:
        state: of each parameter by its number, the entry "state" of the other optimizer's state dict.

    Raises:
        ValueError: it belongs to other parameters or to an optimizer of another kind.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    adam: float = math.inf  # number of the first parameter with moments of Adam
    if isinstance(optimizer, Adam | Muon):
        adam = len(optimizer.matrices) if isinstance(optimizer, Muon) else 0
    for number, values in state.items():
        shapes = {(), parameters[number].shape} if 0 <= number < len(parameters) else set()
        names = {"exp_avg", "exp_avg_sq"} if number >= adam else {"momentum_buffer"}
        if set(values) - {"step"} != names or any(value.shape not in shapes for value in values.values()):
            raise ValueError("its optimizer is of another kind, or has other parameters")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(state)})


Schedule = Literal["cosine", "one_cycle", "multi_step", "step", "plateau", "constant"]


def make_schedule(
    optimizer: Optimizer, *, name: Schedule, steps: int, warmup: int, drops: Sequence[int], gamma: float
) -> LRScheduler:
    """Learning rate by step: a linear warm-up from a thousandth of the peak, then the named schedule.

    `plateau` is constant here; `Plateau` lowers the rate after validations.

    `one_cycle` (Smith and Topin, 1708.07120) rises from a 25th of the peak and falls, both along cosines; without
    warm-up it is `cosine`.

    Args:
        steps: number of steps of the whole training.
        warmup: number of warm-up steps, limited so that the peak is reached in the last step at the latest.
        drops: `multi_step`: the steps before which the rate is multiplied by gamma; `step`: the first of them gives the
            interval. Drops within the warm-up take effect at its end.
        gamma: factor of `multi_step` and `step`.
    """
    rising = min(warmup, steps - 1)
    if name == "one_cycle" and rising:
        peaks = [group["lr"] for group in optimizer.param_groups]
        # One more, so that the rate reaches its end after the last step, as with `cosine`.
        total = steps + 1
        return OneCycleLR(optimizer, peaks, total, pct_start=(rising + 1) / total, cycle_momentum=False)
    after = _AFTER[name](optimizer, steps - rising, [drop - rising for drop in _drops(name, drops, steps)], gamma)
    if rising == 0:
        return after
    return SequentialLR(optimizer, [LinearLR(optimizer, 1e-3, total_iters=rising), after], milestones=[rising])


def _drops(name: Schedule, drops: Sequence[int], steps: int) -> Sequence[int]:
    if name != "step":
        return drops
    interval = max(1, drops[0])  # a fraction of a short training may round to 0
    return range(interval, steps, interval)


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
    "plateau": _constant,
    "constant": _constant,
}


@dataclass(frozen=True)
class Plateau:
    """Lowers the learning rate when validations don't get better, with torch's ReduceLROnPlateau.

    Args:
        scheduler: from `make_plateau`.
        warmup: number of steps of the warm-up. Validations during it are not counted: its end would undo a change.
    """

    scheduler: ReduceLROnPlateau
    warmup: int

    def on_validation(self, step: int, score: float) -> None:
        """Takes the score of a validation after this number of steps."""
        if step >= self.warmup:
            self.scheduler.step(score)

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state)


def make_plateau(optimizer: Optimizer, *, patience: int, gamma: float, warmup: int) -> Plateau:
    """Multiplies the learning rate by gamma after `patience` validations in a row without a better score."""
    # torch counts the validations that are tolerated before the one that lowers the rate.
    scheduler = ReduceLROnPlateau(
        optimizer, mode="max", factor=gamma, patience=patience - 1, threshold=0, threshold_mode="abs"
    )
    return Plateau(scheduler, warmup)
