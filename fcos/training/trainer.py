"""The training loop."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fcos.backbones.state_dicts import first_sentence
from fcos.criterion import Criterion, Losses
from fcos.detector import Detector
from fcos.fast.training_view import training_view
from fcos.training.amp import Precision
from fcos.training.batch import Batch
from fcos.training.checkpoints import Checkpoint
from fcos.training.distributed import SINGLE_PROCESS, Processes
from fcos.training.ema import ModelEMA
from fcos.training.guards import FIRST_STEPS, check_finite, check_learning
from fcos.training.history import Best, Callback, History, Row
from fcos.training.optimization import Plateau, load_moments
from fcos.training.step_metrics import Step, combine_parts, fetch_rows

_SAVE, _STOP, _FAILED = 1, 2, 3  # what a process requests before a step; the maximum over processes wins


class TrainingInterrupted(RuntimeError):
    """Training stopped on request; its state is saved."""


class PeerFailedError(RuntimeError):
    """Another process failed; that process reports the error."""


@dataclass(kw_only=True)
class Trainer:
    """Trains a detector; all parts are passed in already built.

    Args:
        batches: `batches(epoch, first)` yields the steps of an epoch from index `first`, each as the list of its parts
            (gradient accumulation). It must yield the same steps every time.
        validate: returns named metrics of a detector, the same in every process; may raise TrainingInterrupted.
        ema: the moving average to validate and keep; None: the weights themselves.
        compile_model: returns the module to train through, given the network.
        validate_every: epochs between validations; the last epoch is always validated.
        clip_grad_norm: largest gradient norm; 0: no limit.
        backbone_frozen_epochs: number of first epochs in which the backbone is not trained.
        score: the metric by which the best weights are chosen.
        plateau: lowers the learning rate after validations; None: only `schedule` changes it.
        patience: number of epochs without a better score after which training ends; 0: never.
        target_score: score at which training ends.
        interrupted: whether training should stop; read before each step.
        checkpoint: where the state is saved; None: training cannot be resumed.
        checkpoint_seconds, checkpoint_steps: the state is saved after this time or this number of steps.
        log_every: number of steps whose numbers are copied to the host together; a GPU is waited for only then.
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
    plateau: Plateau | None = None
    backbone_frozen_epochs: int = 0
    score: str = "AP"
    patience: int = 0
    target_score: float = math.inf
    interrupted: Callable[[], bool] = lambda: False
    checkpoint: Checkpoint | None = None
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int = 1000
    log_every: int = 1
    history: History = field(default_factory=History)
    best: Best | None = None  # None before the first validation; without a score, the last validation is the best
    epoch: int = 0  # the next step's epoch, from 0
    batch: int = 0  # the next step's index in its epoch
    step: int = 0  # steps done
    first_epoch: int = 0  # epochs and steps of a finished training that this one extends; the history begins after them
    first_step: int = 0

    def __post_init__(self) -> None:
        self._pending: list[Step] = []
        self._saved = time.monotonic(), 0  # time and step of the last saved state
        self._network: nn.Module | None = None
        self._backbone_frozen: bool | None = None
        self._backbone_parameters = [
            parameter for parameter in self.detector.backbone.parameters() if parameter.requires_grad
        ]

    @property
    def result(self) -> Detector:
        """The detector to validate and save: the moving average if there is one."""
        return self.ema.module if self.ema else self.detector  # type: ignore[return-value]

    @property
    def finished(self) -> bool:
        """Whether the last epoch is over, the target score is reached, or patience has run out."""
        if self.epoch >= self.epochs:
            return True
        best = self.history.best(self.score)
        if best is None:
            return False
        epochs_since_best = self.history.epochs[-1]["epoch"] - self.history.epochs[best]["epoch"]
        return self.history.epochs[best][self.score] >= self.target_score or (0 < self.patience <= epochs_since_best)

    def fit(self) -> History:
        """Trains to the end, from the checkpoint's state if there is one.

        Raises:
            NonFiniteLossError, NothingToLearnError: training diverged or learns nothing; the state before is kept.
            TrainingInterrupted: `interrupted` returned True; the state is saved.
            CheckpointError: a state could not be written; the state before it is kept.
            PeerFailedError: another process raised an error.
        """
        self.resume()
        try:
            while not self.finished:
                self._train_epoch()
                if (self.epoch + 1) % self.validate_every == 0 or self.epoch + 1 == self.epochs:
                    self._validate()
                self.epoch, self.batch = self.epoch + 1, 0
                self.save()
            self.history.stopped_early = self.epoch < self.epochs
            if self.best is None:  # the file of the best weights was damaged after the last validation
                self._keep_best()
        except TrainingInterrupted:
            self.save()
            raise
        finally:
            if self.checkpoint:
                self.checkpoint.wait()
        return self.history

    def _train_epoch(self) -> None:
        """Trains the steps that are left of the current epoch."""
        self.detector.train()
        self._freeze_backbone(self.epoch < self.backbone_frozen_epochs)
        if self.epoch < self.backbone_frozen_epochs:
            self.detector.backbone.eval()  # batch norm's statistics must not change either
        for parts in self._synchronize(self.batches(self.epoch, self.batch)):
            self._step(parts)
            self.batch += 1
        self._fetch()
        if self.epoch == self.first_epoch and len(self.history.steps) < FIRST_STEPS:
            check_learning(self.history.steps)

    def _synchronize(self, steps: Iterable[Sequence[Batch]]) -> Iterator[Sequence[Batch]]:
        """Yields the steps; before each, all processes agree whether to continue, save, stop or fail."""
        iterator = iter(steps)
        while True:
            failure: Exception | None = None
            parts: Sequence[Batch] | None = None
            try:
                if self.checkpoint:
                    self.checkpoint.check()
                parts = next(iterator, None)
            except Exception as error:  # noqa: BLE001 - raised below, once the other processes know
                failure = error
            # A signal to all processes also ends the data loader's workers, which is no failure.
            request = self.processes.max(
                _STOP if self.interrupted() else _FAILED if failure else int(self._save_is_due())
            )
            if request == _FAILED:
                raise failure or PeerFailedError
            if request == _STOP:
                raise TrainingInterrupted
            if request == _SAVE:
                self.save()
            if parts is None:
                return
            yield parts

    def _step(self, parts: Sequence[Batch]) -> None:
        # Random layers (dropout) depend on the step alone, so that a resumed training gives the same result.
        torch.manual_seed((self.seed * 1_000_003 + self.step) * 1_009 + self.processes.rank)
        assert self._network is not None
        self.optimizer.zero_grad(set_to_none=True)
        with self.processes.no_sync(self._network):
            losses = [self._backward(part, len(parts)) for part in parts[:-1]]
        losses.append(self._backward(parts[-1], len(parts)))
        norm = self.precision.clip_gradients(self.optimizer, self.detector, self.clip_grad_norm)
        rate = self.optimizer.param_groups[0]["lr"]
        self._pending.append(Step(torch.cat([combine_parts(losses), norm.detach()[None]]), rate, parts))
        if len(self._pending) >= self.log_every:
            self._fetch()  # before the optimizer's step: a loss that is not finite must not change the weights
        self.precision.step(self.optimizer)
        self.schedule.step()
        if self.ema:
            self.ema.update_parameters(self.detector)
        self.step += 1

    def _backward(self, part: Batch, parts: int) -> Tensor:
        """Forward and backward pass of one part of a step; returns its losses as one tensor on its device."""
        assert self._network is not None
        device = self.detector.mean.device
        with self.precision.forward():
            outputs = self._network(self.detector.normalize_batch(part.pixels, part.sizes))
        losses: Losses = self.criterion(outputs.float(), part.targets.to(device))
        self.precision.backward(losses.total / parts)
        return torch.stack(list(losses.named().values()))

    def _fetch(self) -> None:
        """Copies the pending steps' numbers to the host in one transfer, checks and records them."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        before = len(self.history.steps)
        for step, row in zip(
            pending, fetch_rows(pending, self.processes, first=self.first_step + before + 1), strict=True
        ):
            self._record(step, row)
        if before < FIRST_STEPS <= len(self.history.steps):
            check_learning(self.history.steps)

    def _record(self, step: Step, row: Row) -> None:
        check_finite(
            row,
            step,
            self.history.steps,
            processes=self.processes,
            loss_scaling=self.precision.scales_loss,
            saved_state=self._saved_state(),
        )
        self.history.steps.append(row)
        if self.processes.rank == 0:
            self.callback.on_step(row, len(step.names) * self.processes.world_size)

    def _freeze_backbone(self, frozen: bool) -> None:
        if self._backbone_frozen == frozen:
            return
        self._backbone_frozen = frozen
        for parameter in self._backbone_parameters:
            parameter.requires_grad_(not frozen)
        self._network = self.processes.wrap(self.compile_model(training_view(self.detector)))

    def _validate(self) -> None:
        self.result.eval()
        step = self.first_step + len(self.history.steps)
        row = {"epoch": self.epoch + 1, "step": step, **self.validate(self.result)}
        self.history.epochs.append(row)
        if self.processes.rank == 0:
            self.callback.on_validation(row)
        if self.plateau:
            self.plateau.on_validation(self.step - self.first_step, row[self.score])
        if self.best is None or self.history.best(self.score) in (None, len(self.history.epochs) - 1):
            self._keep_best()

    def _keep_best(self) -> None:
        """Keeps the validated weights as the best."""
        weights = {name: value.detach().to("cpu", copy=True) for name, value in self.result.state_dict().items()}
        self.best = Best(self.history.epochs[-1], weights)
        if self.checkpoint and self.processes.rank == 0:
            self.checkpoint.save_best({"row": self.best.row, "weights": weights})

    def _saved_state(self) -> str:
        """Describes the last saved state for an error's message; empty if there is none."""
        _, step = self._saved
        return f"the state of step {step} is in {self.checkpoint.folder}" if self.checkpoint and step else ""

    def _save_is_due(self) -> bool:
        if self.checkpoint is None or self.processes.rank:
            return False
        time_saved, step_saved = self._saved
        due = time.monotonic() - time_saved > self.checkpoint_seconds or self.step - step_saved >= self.checkpoint_steps
        return due and self.step > step_saved and not self.checkpoint.writing  # training does not wait for a slow disk

    def save(self) -> None:
        """Saves everything that the rest of the training depends on; all processes must call it."""
        self._fetch()  # only a state after finite losses is saved
        self._saved = time.monotonic(), self.step
        if self.checkpoint and self.processes.rank == 0:
            # Tuples are not copied: copying thousands of rows would take longer than copying the weights.
            history = {"steps": tuple(self.history.steps), "epochs": tuple(self.history.epochs)}
            self.checkpoint.save({**self.state(), "batch": self.batch, "history": history})

    def state(self) -> dict[str, Any]:
        """What `extend` needs to continue this training; not copied."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {"epoch": self.epoch, "step": self.step, **parts}

    def extend(self, state: Mapping[str, Any]) -> None:
        """Continues a finished training: its weights, moving average, and the optimizer's and loss scale's state.

        Learning rates and other settings are this trainer's own. `epochs` more epochs follow, with the same images and
        random numbers as if the finished training had been longer. Call it before `fit`.

        Args:
            state: of the finished training, from its `state`.

        Raises:
            ValueError: the state belongs to another network or optimizer.
        """
        try:
            self.detector.load_state_dict(state["detector"])
            load_moments(self.optimizer, state["optimizer"]["state"])
            if self.precision.scales_loss and state["precision"]:
                self.precision.load_state_dict(state["precision"])
            if self.ema:
                self.ema.load_state_dict(state.get("ema", {"module": state["detector"], "updates": 0}))
            self.first_epoch, self.first_step = int(state["epoch"]), int(state["step"])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"not the state of this network and optimizer: {first_sentence(error)}") from None
        self.epoch, self.step, self.epochs = self.first_epoch, self.first_step, self.first_epoch + self.epochs

    def resume(self) -> None:
        """Loads the checkpoint's state, if there is one; all processes must call it."""
        checkpoint = self.checkpoint if self.processes.rank == 0 else None
        state = self.processes.broadcast_object(checkpoint.load() if checkpoint else None)
        if state:
            self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
            self.history = History(list(state["history"]["steps"]), list(state["history"]["epochs"]))
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            best = self.processes.broadcast_object(checkpoint.load_best() if checkpoint else None)
            self.best = Best(**best) if best else None
        self._saved = time.monotonic(), self.step

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "detector": self.detector,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "precision": self.precision,
        }
        optional = {"ema": self.ema, "plateau": self.plateau}
        return parts | {name: part for name, part in optional.items() if part}
