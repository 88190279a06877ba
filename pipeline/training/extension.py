"""`train.extend_from`: a finished training that goes on, with the state of its optimizer if it kept that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcos.training.checkpoints import read_state, write_state
from fcos.training.trainer import Trainer
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.training.initial_weights import EXTEND_FROM, START_FROM, find_start

STATE_FILE = "training_state.pt"  # beside the detector
_OPTIMIZER = "optimizer_name"


@dataclass(frozen=True)
class Extension:
    """The state of the training that is extended.

    Args:
        path: of its file.
        state: see `Trainer.state`.
    """

    path: Path
    state: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """Number of epochs that were trained."""
        return int(self.state["epoch"])

    def apply(self, trainer: Trainer) -> None:
        """Lets a trainer go on from the state.

        Raises:
            PipelineError: the state belongs to another network or optimizer.
        """
        try:
            trainer.extend(self.state)
        except ValueError as error:
            raise PipelineError(f"{EXTEND_FROM}: {self.path}: {error}; use {START_FROM} instead") from None


def read_extension(params: Params, warn: Callable[[str], object]) -> Extension | None:
    """Reads the state of the training that `train.extend_from` names; None if there is none.

    Raises:
        PipelineError: the state is damaged, or that of another optimizer.
    """
    detector, key = find_start(params)
    if not detector or key != EXTEND_FROM:
        return None
    path, optimizer = detector.with_name(STATE_FILE), params.train.optimizer
    if not path.is_file():
        warn(f"{EXTEND_FROM}: {path}: not there, since train.keep_state was false: a new optimizer starts at epoch 1")
        return None
    state = read_state(path)
    if state is None or not isinstance(state.get("epoch"), int):
        raise PipelineError(f"{EXTEND_FROM}: {path}: damaged, or not a training state: restore it, or remove it")
    if (theirs := state.get(_OPTIMIZER)) != optimizer:
        raise PipelineError(
            f"{EXTEND_FROM}: {path}: it is the state of {theirs}: set train.optimizer to that, or remove the file to "
            f"start {optimizer} anew"
        )
    warn(f"{EXTEND_FROM}: goes on after epoch {state['epoch']}, with the state of {optimizer}")
    return Extension(path, state)


def keep_state(trainer: Trainer, params: Params, folder: Path) -> None:
    """Writes the state that `read_extension` reads into the folder of a detector."""
    folder.mkdir(parents=True, exist_ok=True)
    write_state(folder / STATE_FILE, {**trainer.state(), _OPTIMIZER: params.train.optimizer})
