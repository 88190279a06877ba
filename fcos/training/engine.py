"""The training loop: batches in, a learnt detector and its history out."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from fcos.criterion import Criterion
from fcos.detector import Detector
from fcos.targets import Targets
from fcos.training.checkpoints import Checkpoint

Row = dict[str, float]


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite; the message names the step, the losses and the images."""


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    images: Sequence[Tensor]  # uint8 [3, H, W] each
    targets: Targets
    names: Sequence[str]  # of the images, for messages


class Watcher(Protocol):
    """Who is told how training goes."""

    def stepped(self, row: Row, images: int) -> None:
        """After each step: its number, losses and learning rate; and how many images it had."""

    def validated(self, row: Row) -> None:
        """After each validation: its epoch, step and what was measured."""


@dataclass
class History:
    """One row a step, and one a validation."""

    steps: list[Row] = field(default_factory=list)
    epochs: list[Row] = field(default_factory=list)


@dataclass(kw_only=True)
class Trainer:
    """Everything that a training is made of, already built.

    `batches(epoch, first)` gives the batches of an epoch from the first-th on: the same ones whenever asked.
    `validate(detector)` gives named numbers. `checkpoint` may be None: then nothing can be resumed.
    """

    detector: Detector
    criterion: Criterion
    optimizer: Optimizer
    schedule: LRScheduler
    ema: AveragedModel | None
    batches: Callable[[int, int], Iterable[Batch]]
    validate: Callable[[Detector], Row]
    epochs: int
    validate_every: int
    clip_norm: float
    watcher: Watcher
    checkpoint: Checkpoint | None = None
    checkpoint_every: float = 60.0  # seconds
    history: History = field(default_factory=History)
    epoch: int = 0  # the next step's epoch, from 0
    batch: int = 0  # the next step's batch in its epoch

    @property
    def result(self) -> Detector:
        """The detector to validate and to keep: the average, where one is kept."""
        return self.ema.module if self.ema else self.detector  # type: ignore[return-value]

    def fit(self) -> History:
        """Trains, from where the checkpoint ends if there is one.

        Raises:
            NonFiniteLoss: at the step where it happens.
        """
        self.resume()
        saved = time.monotonic()
        while self.epoch < self.epochs:
            for batch in self.batches(self.epoch, self.batch):
                self._step(batch)
                self.batch += 1
                if time.monotonic() - saved > self.checkpoint_every:
                    self.save()
                    saved = time.monotonic()
            self.epoch, self.batch = self.epoch + 1, 0
            if self.epoch % self.validate_every == 0 or self.epoch == self.epochs:
                self._validate()
                self.save()
                saved = time.monotonic()
        return self.history

    def _step(self, batch: Batch) -> None:
        self.detector.train()
        device = self.detector.mean.device
        losses = self.criterion(self.detector(self.detector.prepare(batch.images)), batch.targets.to(device))
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.detector.parameters(), self.clip_norm or torch.inf)
        row = self._row(losses.named(), norm)
        _refuse_non_finite(row, batch)  # before the optimiser: the weights stay as they were
        self.optimizer.step()
        self.schedule.step()
        if self.ema:
            self.ema.update_parameters(self.detector)
        self.history.steps.append(row)
        self.watcher.stepped(row, len(batch.images))

    def _row(self, losses: dict[str, Tensor], norm: Tensor) -> Row:
        # One copy to the host for all of them: each would make a GPU wait.
        values = torch.stack([*losses.values(), norm]).tolist()
        numbers = dict(zip([*losses, "gradient_norm"], values, strict=True))
        rate = self.optimizer.param_groups[0]["lr"]
        return {"step": len(self.history.steps) + 1, **numbers, "learning_rate": rate}

    def _validate(self) -> None:
        self.result.eval()
        row = {"epoch": self.epoch, "step": len(self.history.steps), **self.validate(self.result)}
        self.history.epochs.append(row)
        self.watcher.validated(row)

    def save(self) -> None:
        """Writes everything that the rest of the training depends on."""
        if self.checkpoint:
            self.checkpoint.save(
                {
                    "epoch": self.epoch,
                    "batch": self.batch,
                    "history": vars(self.history),
                    "random": torch.get_rng_state(),
                    **{name: part.state_dict() for name, part in self._parts().items()},
                }
            )

    def resume(self) -> None:
        """Takes up the checkpoint's state, if there is one."""
        state = self.checkpoint.load() if self.checkpoint else None
        if state:
            self.epoch, self.batch, self.history = state["epoch"], state["batch"], History(**state["history"])
            torch.set_rng_state(state["random"])
            for name, part in self._parts().items():
                part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"detector": self.detector, "optimizer": self.optimizer, "schedule": self.schedule}
        return {**parts, "ema": self.ema} if self.ema else parts


def _refuse_non_finite(row: Row, batch: Batch) -> None:
    if not all(value == value and abs(value) != float("inf") for value in row.values()):
        numbers = ", ".join(f"{name} {value:g}" for name, value in row.items())
        raise NonFiniteLoss(
            f"the loss is not finite any more: {numbers}; images {', '.join(batch.names)}; "
            "try a lower train.lr, a longer train.warmup or a smaller train.clip_norm"
        )
