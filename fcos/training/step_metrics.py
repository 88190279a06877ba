"""A step's numbers, from the device where it was worked through to a row of its training's history."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fcos.criterion import Losses
from fcos.training.batch import Batch
from fcos.training.distributed import Processes
from fcos.training.history import Row

_COUNTS = ("positives", "objects", "annotated")  # of a row: over all processes


@dataclass(frozen=True)
class Step:
    """A step whose numbers are still on their device."""

    values: Tensor  # [N] losses, then the gradient's norm
    learning_rate: float
    parts: Sequence[Batch]

    @property
    def names(self) -> list[str]:
        """Of its images, in this process."""
        return [name for part in self.parts for name in part.names]

    def counted(self, what: Literal["objects", "annotated"]) -> int:
        """Of all its parts, in this process."""
        return sum(getattr(part, what) for part in self.parts)


def summed_up(losses: Sequence[Tensor]) -> Tensor:
    """A step's losses [N]: of those [N] of its parts the mean, and of their positives the sum."""
    if len(losses) == 1:
        return losses[0]
    stacked = torch.stack(list(losses))
    return torch.cat([stacked[:, :-1].mean(dim=0), stacked[:, -1:].sum(dim=0)])  # positives stand last


def fetched(steps: Sequence[Step], processes: Processes, *, first: int) -> list[Row]:
    """Brings steps' numbers to the host, all in one copy: a row each, of all processes, numbered from `first` on."""
    values = torch.stack([step.values for step in steps])
    counts = values.new_tensor([[step.counted("objects"), step.counted("annotated")] for step in steps])
    numbers = processes.mean(torch.cat([values, counts], dim=1)).tolist()
    return [
        {"step": first + place, **_named(own, processes.world_size), "learning_rate": step.learning_rate}
        for place, (step, own) in enumerate(zip(steps, numbers, strict=True))
    ]


def _named(numbers: Sequence[float], processes: int) -> Row:
    named = dict(zip([*Losses.names(), "gradient_norm", "objects", "annotated"], numbers, strict=True))
    for name in _COUNTS:  # the mean over the processes, by their number
        named[name] = _whole(named[name] * processes)
    return named


def _whole(number: float) -> float:
    """A count out of a mean, without its rounding; what isn't finite stays."""
    return float(round(number)) if math.isfinite(number) else number
