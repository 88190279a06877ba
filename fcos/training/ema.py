"""The moving average of the weights, which detects better than the weights themselves."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of parameters and buffers.

    It starts young: after n updates the decay is at most (1 + n)/(10 + n), or the first, random weights would
    stay in it for 1/(1 − decay) steps.
    """

    @torch.no_grad()
    def average(averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        n = int(updates)
        share = 1 - min(decay, (1 + n) / (10 + n))
        for mean, value in zip(averages, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:  # batch norm's counter of batches
                mean.copy_(value)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
