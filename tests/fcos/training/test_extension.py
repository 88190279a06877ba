"""A finished training that goes on: the same result as a longer training, if the schedule is the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fcos.training.checkpoints import read_state, write_state
from fcos.training.ema import ModelEMA
from fcos.training.trainer import Trainer
from tests.support.tiny_trainer import batch, tiny_trainer

STEPS = [[batch(seed)] for seed in range(3)]


def trainer_of(epochs: int, optimizer: str = "adamw", *, ema: bool = True, **changes: Any) -> Trainer:
    # An epoch's batches depend on its number, as augmentation does.
    changes = {"batches": lambda epoch, first: [[batch(10 * epoch + step)] for step in range(first, 3)]} | changes
    trainer = tiny_trainer(STEPS, epochs=epochs, optimizer=optimizer, validate=lambda _: {"AP": 0.5}, **changes)
    trainer.ema = ModelEMA(trainer.detector, 0.9) if ema else None
    return trainer


def extended(first: Trainer, second: Trainer, folder: Path) -> Trainer:
    """The second trainer, after it has continued the first, whose state goes through a file."""
    first.fit()
    write_state(folder / "training_state.pt", first.state())
    state = read_state(folder / "training_state.pt")
    assert state is not None
    second.extend(state)
    second.fit()
    return second


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_two_epochs_and_one_more_are_three(tmp_path: Path, optimizer: str) -> None:
    """The same bits: weights, moving average and moments; only the numbers of the added epoch are recorded."""
    whole = trainer_of(3, optimizer)
    whole.fit()
    trainer = extended(trainer_of(2, optimizer), trainer_of(1, optimizer), tmp_path)
    for ours, theirs in ((trainer.detector, whole.detector), (trainer.result, whole.result)):
        state = theirs.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())
    moments = whole.optimizer.state_dict()["state"]
    for number, values in trainer.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments[number][name]) for name, value in values.items())
    assert trainer.history.steps == whole.history.steps[6:]
    assert trainer.history.epochs == whole.history.epochs[2:] == [{"epoch": 3, "step": 9, "AP": 0.5}]


def test_the_extension_has_its_own_learning_rate_and_patience(tmp_path: Path) -> None:
    """An epoch without a better score ends the finished training, and another one the extension."""
    second = trainer_of(9, lr=0.005, patience=1)
    trainer = extended(trainer_of(9, lr=0.02, patience=1), second, tmp_path)
    assert trainer.first_epoch == 2
    assert [row["epoch"] for row in trainer.history.epochs] == [3, 4]
    assert trainer.history.stopped_early
    assert {row["learning_rate"] for row in trainer.history.steps} == {0.005}


def test_the_moving_average_may_begin_or_end_with_the_extension(tmp_path: Path) -> None:
    first = trainer_of(1, ema=False)
    trainer = trainer_of(1)
    first.fit()
    trainer.extend(first.state())
    weights = first.detector.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trainer.result.state_dict().items())
    without = extended(trainer_of(1), trainer_of(1, ema=False), tmp_path)
    assert without.result is without.detector


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"optimizer": {"state": {0: {"momentum_buffer": torch.ones(1)}}}}, "its optimizer is of another kind"),
        ({"optimizer": {"state": {999: {}}}}, "its optimizer is of another kind, or has other parameters"),
        ({"optimizer": 3}, "not the state of this network and optimizer"),
        ({"detector": {}}, "not the state of this network and optimizer: Error.* loading state_dict for Detector"),
        ({"epoch": None}, "not the state of this network and optimizer"),
    ],
)
def test_the_state_of_something_else_is_refused(changes: dict[str, Any], problem: str) -> None:
    trainer = trainer_of(1)
    with pytest.raises(ValueError, match=problem) as caught:
        trainer.extend({**trainer_of(1).state(), **changes})
    assert "\n" not in str(caught.value)
