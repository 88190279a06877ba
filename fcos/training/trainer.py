"""The training loop: batches in, a learned detector and its history out."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fcos.criterion import Criterion, Losses
from fcos.detector import Detector
from fcos.fast.training_view import training_view
from fcos.training.amp import Precision
from fcos.training.batch import Batch
from fcos.training.checkpoints import Checkpoint
from fcos.training.distributed import SINGLE_PROCESS, Processes
from fcos.training.ema import ModelEMA
from fcos.training.guards import FIRST_STEPS, refuse_non_finite, refuse_nothing
from fcos.training.history import Best, Callback, History, Row
from fcos.training.step_metrics import Step, fetched, summed_up

_SAVE, _STOP, _FAILED = 1, 2, 3  # what a process may want before a step; the highest of them wins


class TrainingInterrupted(RuntimeError):
    """Training was asked to stop, and its state is saved."""


class PeerFailedError(RuntimeError):
    """Another process can't go on, and says why itself."""


@dataclass(kw_only=True)
class Trainer:
    """Everything that a training is made of, already built.

    `batches(epoch, first)` gives the steps of an epoch from the first-th on, each a list of the parts it is worked
    through in: the same ones whenever asked. `validate(detector)` gives named numbers, the same in every process; it
    may raise TrainingInterrupted. `checkpoint` may be None: then nothing can be resumed.
    """

    detector: Detector
    criterion: Criterion
    optimizer: Optimizer
    schedule: LRScheduler
    precision: Precision
    ema: ModelEMA | None
    batches: Callable[[int, int], Iterable[Sequence[Batch]]]
    validate: Callable[[Detector], Row]
    epochs: int
    validate_every: int
    clip_grad_norm: float
    callback: Callback
    seed: int = 0
    processes: Processes = SINGLE_PROCESS
    compile_model: Callable[[nn.Module], nn.Module] = lambda network: network
    backbone_frozen_epochs: int = 0  # first ones, in which the backbone doesn't learn
    score: str = "AP"  # what the best weights are best by
    patience: int = 0  # epochs without a better one after which training ends; 0: never
    target_score: float = math.inf  # score at which training ends
    interrupted: Callable[[], bool] = lambda: False
    checkpoint: Checkpoint | None = None
    checkpoint_seconds: float = 60.0  # seconds
    checkpoint_steps: int = 1000
    log_every: int = 1  # steps whose numbers are fetched together: a GPU is waited for then, and only then
    history: History = field(default_factory=History)
    best: Best | None = None  # None until the first validation; without a score, the last one is the best
    epoch: int = 0  # the next step's epoch, from 0
    batch: int = 0  # the next step's place in its epoch
    step: int = 0  # steps done

    def __post_init__(self) -> None:
        self._waiting: list[Step] = []
        self._saved = time.monotonic(), 0
        self._network: nn.Module | None = None
        self._frozen: bool | None = None  # whether the backbone is, in this epoch
        self._learned = [parameter for parameter in self.detector.backbone.parameters() if parameter.requires_grad]

    @property
    def result(self) -> Detector:
        """The detector to validate and to keep: the average, where one is kept."""
        return self.ema.module if self.ema else self.detector  # type: ignore[return-value]

    @property
    def finished(self) -> bool:
        """Whether the last epoch is over, or more would be no better."""
        if self.epoch >= self.epochs:
            return True
        best = self.history.best(self.score)
        if best is None:
            return False
        late = self.history.epochs[-1]["epoch"] - self.history.epochs[best]["epoch"]
        return self.history.epochs[best][self.score] >= self.target_score or (0 < self.patience <= late)

    def fit(self) -> History:
        """Trains, from where the checkpoint ends if there is one.

        Raises:
            NonFiniteLossError, NothingToLearnError: the state before is kept.
            TrainingInterrupted: `interrupted` said so; the state is saved.
            CheckpointError: a state can't be written; the one before is kept.
            PeerFailedError: another process raised something.
        """
        self.resume()
        try:
            while not self.finished:
                self._train()
                if (self.epoch + 1) % self.validate_every == 0 or self.epoch + 1 == self.epochs:
                    self._validate()
                self.epoch, self.batch = self.epoch + 1, 0
                self.save()
            self.history.stopped_early = self.epoch < self.epochs
            if self.best is None:  # its file was damaged after the last validation
                self._keep_best()
        except TrainingInterrupted:
            self.save()
            raise
        finally:
            if self.checkpoint:
                self.checkpoint.wait()
        return self.history

    def _train(self) -> None:
        """What is left of this epoch."""
        self.detector.train()
        self._freeze(self.epoch < self.backbone_frozen_epochs)
        if self.epoch < self.backbone_frozen_epochs:
            self.detector.backbone.eval()  # statistics of batch norm don't move either
        for parts in self._agreed(self.batches(self.epoch, self.batch)):
            self._step(parts)
            self.batch += 1
        self._fetch()
        if self.epoch == 0 and len(self.history.steps) < FIRST_STEPS:
            refuse_nothing(self.history.steps)

    def _agreed(self, steps: Iterable[Sequence[Batch]]) -> Iterator[Sequence[Batch]]:
        """The steps, for as long as every process has one and none is to stop."""
        iterator = iter(steps)
        while True:
            problem: Exception | None = None
            parts: Sequence[Batch] | None = None
            try:
                if self.checkpoint:
                    self.checkpoint.check()
                parts = next(iterator, None)
            except Exception as error:  # noqa: BLE001 - raised below, once the others know
                problem = error
            # A signal to all processes ends the loader's workers too: that is no failure.
            state = self.processes.max(_STOP if self.interrupted() else _FAILED if problem else int(self._due()))
            if state == _FAILED:
                raise problem or PeerFailedError
            if state == _STOP:
                raise TrainingInterrupted
            if state == _SAVE:
                self.save()
            if parts is None:
                return
            yield parts

    def _step(self, parts: Sequence[Batch]) -> None:
        # So that what is random in a network (dropout) depends on the step alone, and a resume changes nothing.
        torch.manual_seed((self.seed * 1_000_003 + self.step) * 1_009 + self.processes.rank)
        assert self._network is not None
        self.optimizer.zero_grad(set_to_none=True)
        with self.processes.no_sync(self._network):
            losses = [self._learn(part, len(parts)) for part in parts[:-1]]
        losses.append(self._learn(parts[-1], len(parts)))
        norm = self.precision.clipped(self.optimizer, self.detector, self.clip_grad_norm)
        rate = self.optimizer.param_groups[0]["lr"]
        self._waiting.append(Step(torch.cat([summed_up(losses), norm.detach()[None]]), rate, parts))
        if len(self._waiting) >= self.log_every:
            self._fetch()  # before the optimizer: a loss that isn't finite leaves the weights as they were
        self.precision.step(self.optimizer)
        self.schedule.step()
        if self.ema:
            self.ema.update_parameters(self.detector)
        self.step += 1

    def _learn(self, part: Batch, parts: int) -> Tensor:
        """Forward, losses and backward of one part; its losses as one tensor, on its device."""
        assert self._network is not None
        device = self.detector.mean.device
        with self.precision.forward():
            outputs = self._network(self.detector.normalize_batch(part.pixels, part.sizes))
        losses: Losses = self.criterion(outputs.float(), part.targets.to(device))
        self.precision.backward(losses.total / parts)
        return torch.stack(list(losses.named().values()))

    def _fetch(self) -> None:
        """Brings the waiting steps' numbers to the host, all in one copy, and tells them."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        before = len(self.history.steps)
        for step, row in zip(waiting, fetched(waiting, self.processes, first=before + 1), strict=True):
            self._record(step, row)
        if before < FIRST_STEPS <= len(self.history.steps):
            refuse_nothing(self.history.steps)

    def _record(self, step: Step, row: Row) -> None:
        done = self.history.steps
        refuse_non_finite(row, step, done, processes=self.processes, skips=self.precision.skips, kept=self._kept())
        done.append(row)
        if self.processes.rank == 0:
            self.callback.on_step(row, len(step.names) * self.processes.world_size)

    def _freeze(self, frozen: bool) -> None:
        if self._frozen == frozen:
            return
        self._frozen = frozen
        for parameter in self._learned:
            parameter.requires_grad_(not frozen)
        self._network = self.processes.wrap(self.compile_model(training_view(self.detector)))

    def _validate(self) -> None:
        self.result.eval()
        row = {"epoch": self.epoch + 1, "step": len(self.history.steps), **self.validate(self.result)}
        self.history.epochs.append(row)
        if self.processes.rank == 0:
            self.callback.on_validation(row)
        if self.best is None or self.history.best(self.score) in (None, len(self.history.epochs) - 1):
            self._keep_best()

    def _keep_best(self) -> None:
        """As it is at the last validation."""
        weights = {name: value.detach().to("cpu", copy=True) for name, value in self.result.state_dict().items()}
        self.best = Best(self.history.epochs[-1], weights)
        if self.checkpoint and self.processes.rank == 0:
            self.checkpoint.save_best({"row": self.best.row, "weights": weights})

    def _kept(self) -> str:
        """Where the last good state is, to end a message."""
        when = self._saved[1]
        return f" (the state of step {when} is in {self.checkpoint.folder})" if self.checkpoint and when else ""

    def _due(self) -> bool:
        when, at = self._saved
        due = time.monotonic() - when > self.checkpoint_seconds or self.step - at >= self.checkpoint_steps
        if self.checkpoint is None or self.processes.rank:
            return False
        return due and self.step > at and not self.checkpoint.writing  # a slow disk doesn't hold training up

    def save(self) -> None:
        """Keeps everything that the rest of the training depends on; every process takes part."""
        self._fetch()  # a state is saved only where all before it was finite
        self._saved = time.monotonic(), self.step
        if self.checkpoint and self.processes.rank == 0:
            self.checkpoint.save(
                {
                    "epoch": self.epoch,
                    "batch": self.batch,
                    "step": self.step,
                    # A tuple, since rows never change: copying thousands would take longer than all the weights.
                    "history": {"steps": tuple(self.history.steps), "epochs": tuple(self.history.epochs)},
                    **{name: part.state_dict() for name, part in self._parts().items()},
                }
            )

    def resume(self) -> None:
        """Takes up the checkpoint's state, if there is one."""
        first = self.checkpoint if self.processes.rank == 0 else None
        state = self.processes.broadcast_object(first.load() if first else None)
        if state:
            self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
            self.history = History(list(state["history"]["steps"]), list(state["history"]["epochs"]))
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            best = self.processes.broadcast_object(first.load_best() if first else None)
            self.best = Best(**best) if best else None
        self._saved = time.monotonic(), self.step

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "detector": self.detector,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "precision": self.precision,
        }
        return {**parts, "ema": self.ema} if self.ema else parts
