"""What is recorded of a training: a row of numbers for each step and each validation, and the best result."""

import math
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

Row = dict[str, float]

UNREPORTED = ("annotated",)  # columns of a step that only the guards read: no curve and no tracked metric


@dataclass
class History:
    """One row a step, and one a validation."""

    steps: list[Row] = field(default_factory=list)
    epochs: list[Row] = field(default_factory=list)
    stopped_early: bool = False  # before the last epoch, since more would have been no better

    def best(self, score: str) -> int | None:
        """Place of the validation with the highest score, the first of equals; None where no score is known."""
        scores = [row.get(score, -math.inf) for row in self.epochs]
        return scores.index(max(scores)) if any(score in row for row in self.epochs) else None


@dataclass(frozen=True)
class Best:
    """The result at its best validation."""

    row: Row  # what was measured
    weights: dict[str, Tensor]  # its state, on the CPU


class Callback(Protocol):
    """Receives the records of a training as it runs."""

    def on_step(self, row: Row, images: int) -> None:
        """Called after each step with its number, losses and learning rate, and the number of images it processed."""

    def on_validation(self, row: Row) -> None:
        """Called after each validation with its epoch, step and metrics."""


class NullCallback:
    """A callback that does nothing."""

    def on_step(self, row: Row, images: int) -> None: ...
    def on_validation(self, row: Row) -> None: ...
