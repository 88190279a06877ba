"""An exponential moving average of the weights, which usually detects better than the weights themselves."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ModelEMA:
    """An exponential moving average of a model's parameters and buffers; it begins as a copy.

    The decay warms up: after n updates it is at most (1 + n)/(10 + n). Otherwise the random initial weights would
    dominate the average for about 1/(1 − decay) steps.

    The arithmetic is torch's. torch's AveragedModel is not used because it copies its counter to the GPU, and waits
    for the copy, at every update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module, self.decay, self.updates = deepcopy(model), decay, 0

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Moves the average toward the model's current values; the first update copies them."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        get_ema_multi_avg_fn(decay)([mean for mean, _ in floats], [value for _, value in floats], self.updates)  # type: ignore[no-untyped-call]
        for mean, value in pairs:
            if not mean.is_floating_point():  # batch norm's number of batches
                mean.copy_(value)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*(parameter.detach() for parameter in model.parameters()), *model.buffers()]
