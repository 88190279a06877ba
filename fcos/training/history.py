"""Records of a training: a row of numbers for each step and each validation, and the best result."""

import math
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

Row = dict[str, float]

UNREPORTED = ("annotated",)  # columns of a step that only the guards read: not plotted and not logged


@dataclass
class History:
    """One row for each step and one for each validation."""

    steps: list[Row] = field(default_factory=list)
    epochs: list[Row] = field(default_factory=list)
    stopped_early: bool = False  # training ended before its last epoch: more epochs would not have helped

    def best(self, score: str) -> int | None:
        """Index of the validation with the highest score (the first of equals); None if no row has this score."""
        scores = [row.get(score, -math.inf) for row in self.epochs]
        return scores.index(max(scores)) if any(score in row for row in self.epochs) else None


@dataclass(frozen=True)
class Best:
    """The best validation and the weights it measured."""

    row: Row
    weights: dict[str, Tensor]  # state dict of the validated detector, on the CPU


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
