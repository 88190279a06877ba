"""A step's losses and counts: combined over its parts and over processes, then copied to the host as a row."""

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

_COUNTS = ("positives", "objects", "annotated")  # columns that are summed over processes; the others are averaged


@dataclass(frozen=True)
class Step:
    """A step whose numbers are still on their device."""

    values: Tensor  # [N] losses, then the gradient's norm
    learning_rate: float
    parts: Sequence[Batch]

    @property
    def names(self) -> list[str]:
        """Names of the step's images in this process."""
        return [name for part in self.parts for name in part.names]

    def count(self, column: Literal["objects", "annotated"]) -> int:
        """Sum of a count over the step's parts in this process."""
        return sum(getattr(part, column) for part in self.parts)


def combine_parts(losses: Sequence[Tensor]) -> Tensor:
    """Combines the losses [N] of a step's parts: the sum of their positives, the mean of the others."""
    if len(losses) == 1:
        return losses[0]
    stacked = torch.stack(list(losses))
    return torch.cat([stacked[:, :-1].mean(dim=0), stacked[:, -1:].sum(dim=0)])  # positives are the last column


def fetch_rows(steps: Sequence[Step], processes: Processes, *, first: int) -> list[Row]:
    """Copies the numbers of several steps to the host in one transfer.

    Returns:
        One row for each step, over all processes; steps are numbered from `first`.
    """
    values = torch.stack([step.values for step in steps])
    counts = values.new_tensor([[step.count("objects"), step.count("annotated")] for step in steps])
    numbers = processes.mean(torch.cat([values, counts], dim=1)).tolist()
    return [
        {"step": first + index, **_row(values, processes.world_size), "learning_rate": step.learning_rate}
        for index, (step, values) in enumerate(zip(steps, numbers, strict=True))
    ]


def _row(numbers: Sequence[float], world_size: int) -> Row:
    row = dict(zip([*Losses.names(), "gradient_norm", "objects", "annotated"], numbers, strict=True))
    for name in _COUNTS:  # the sum over processes, from their mean
        row[name] = _to_count(row[name] * world_size)
    return row


def _to_count(number: float) -> float:
    """Removes the rounding error of a count; a number that is not finite stays as it is."""
    return float(round(number)) if math.isfinite(number) else number
