"""Muon: momentum whose matrices are orthogonalized (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/)."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

# a, b, c of each iteration X ← aX + b(XXᵀ)X + c(XXᵀ)²X. They bring singular values to 0.7…1.2 fast, not to exactly 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95


class Muon(Optimizer):
    """Muon for the weights of convolutions and linear layers, AdamW for the other parameters, with one learning rate.

    A convolution's weight is the matrix [out, in · k · k]. The orthogonalized Nesterov momentum is multiplied by
    0.2 · sqrt(max(rows, columns)), so that learning rate and weight decay mean what they do for AdamW (Liu et al.,
    2502.16982, equation 4).

    torch.optim.Muon takes matrices only and computes in bfloat16, which takes ten times as long as float32 on CPUs
    without instructions for it. Here all iterations but the last product work on the Gram matrix XXᵀ, in float32.

    With GradScaler, gradients must be unscaled before the step.

    Args:
        matrices: parameter groups of weights with two or more dimensions, each with its weight decay.
        others: the parameter groups of AdamW.
        fused: see AdamW.
    """

    def __init__(
        self,
        matrices: Sequence[Mapping[str, Any]],
        others: Iterable[Mapping[str, Any]],
        *,
        lr: float,
        fused: bool | None = None,
    ) -> None:
        super().__init__([*map(dict, matrices), *map(dict, others)], {"lr": lr})
        self._first_other = len(matrices)
        # Fills in the groups' other settings.
        self._adamw = AdamW(self.param_groups[self._first_other :], lr=lr, fused=fused)
        # GradScaler then calls `step` after an overflow too, as for fused optimizers; otherwise the schedule warns.
        self._step_supports_amp_scaling = True

    @property
    def matrices(self) -> list[Tensor]:
        return [parameter for group in self.param_groups[: self._first_other] for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf: Tensor | None = getattr(self, "found_inf", None)  # set by GradScaler
        if found_inf is not None and found_inf.item():
            return loss
        for group in self.param_groups[: self._first_other]:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["weight_decay"])
        # `load_state_dict` replaces both, and their state dict is this optimizer's.
        self._adamw.param_groups, self._adamw.state = self.param_groups[self._first_other :], self.state
        self._adamw.step()
        return loss

    def _update(self, parameters: list[Tensor], lr: float, weight_decay: float) -> None:
        """Updates matrices of one shape together."""
        updates = orthogonalize(torch.stack([self._momentum(parameter).flatten(1) for parameter in parameters]))
        scale = 0.2 * math.sqrt(max(updates.shape[1:]))
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - lr * weight_decay).add_(update.view(parameter.shape), alpha=-lr * scale)

    def _momentum(self, parameter: Tensor) -> Tensor:
        """Moves the momentum toward the gradient; returns Nesterov's."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(state["momentum_buffer"], _MOMENTUM)


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, roughly: singular values that aren't tiny become 0.7…1.2.

    Newton–Schulz iterations X ← Q(XXᵀ)·X with Q(G) = aI + bG + cG² are a product of polynomials in the first Gram
    matrix, which is small, times X. So the wide matrix takes part in two products only.

    Args:
        matrices: [N, rows, columns].
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalize(matrices.mT).mT
    a, b, c = _COEFFICIENTS
    matrices = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-12)
    gram = matrices @ matrices.mT
    product: Tensor | None = None
    for _ in range(_ITERATIONS):
        polynomial = b * gram + c * (gram @ gram)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        gram = polynomial @ gram @ polynomial
    assert product is not None
    return product @ matrices
