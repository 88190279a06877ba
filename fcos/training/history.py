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


class Watcher(Protocol):
    """Who is told how training goes."""

    def stepped(self, row: Row, images: int) -> None:
        """After each step: its number, losses and learning rate; and how many images it had."""

    def validated(self, row: Row) -> None:
        """After each validation: its epoch, step and what was measured."""
