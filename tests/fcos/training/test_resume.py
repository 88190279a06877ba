"""Interrupted trainings: the results have the same bytes as those of a training without interruption."""

import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from fcos.detector import Detector
from fcos.training.checkpoints import Checkpoint
from fcos.training.history import Row
from fcos.training.trainer import Trainer, TrainingInterrupted
from tests.support import interrupted_training as trainings
from tests.support.interrupted_training import STEPS, Log, trainer, weights

MOMENTS = ["step", "saving", "validating"]


def have_equal_results(a: Trainer, b: Trainer) -> bool:
    expected = weights(b)
    return all(torch.equal(value, expected[name]) for name, value in weights(a).items()) and a.history == b.history


def test_a_training_that_is_killed_ten_times(tmp_path: Path) -> None:
    """SGD, EMA and AMP, killed during steps, while a state is written, and during validation."""
    rng = random.Random(0)
    moments = [*MOMENTS * 3, "step"]
    rng.shuffle(moments)
    killed = tmp_path / "killed"
    for moment in moments:
        (killed / "validating").unlink(missing_ok=True)
        running = start_process(killed)
        wait_for(condition_of(killed, moment, rng), running)
        time.sleep(rng.uniform(0, 0.01))
        assert running.pid
        os.kill(running.pid, signal.SIGKILL)
        running.join()
        assert running.exitcode == -signal.SIGKILL
    uninterrupted = tmp_path / "uninterrupted"
    for folder in (killed, uninterrupted):
        running = start_process(folder)
        running.join()
        assert running.exitcode == 0
    assert (killed / "end.safetensors").read_bytes() == (uninterrupted / "end.safetensors").read_bytes()


def start_process(folder: Path) -> ForkServerProcess:
    context = get_context("forkserver")  # imports torch, and what the first step would import, only once
    context.set_forkserver_preload(["tests.support.interrupted_training", "torch._dynamo"])
    running = context.Process(target=trainings.train, args=(folder, 10))
    running.start()
    return running


def condition_of(folder: Path, moment: str, rng: random.Random) -> Callable[[], bool]:
    """Whether the training has reached a moment: one to three more steps, a save, or a validation."""
    steps = folder / "steps"
    count = rng.randint(1, 3) + (steps.stat().st_size if steps.exists() else 0)
    return {
        "step": lambda: steps.exists() and steps.stat().st_size >= count,
        "saving": (folder / "state/state.partial").exists,
        "validating": (folder / "validating").exists,
    }[moment]


def wait_for(condition: Callable[[], bool], running: ForkServerProcess) -> None:
    while not condition():
        assert running.is_alive()
        time.sleep(0.0002)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "precision"),
    [
        ("sgd", "multi_step", "bf16"),
        ("adamw", "cosine", "float32"),
        ("adam", "one_cycle", "fp16"),
        ("muon", "one_cycle", "bf16"),
        ("sgd", "step", "float32"),
    ],
)
def test_a_crash_in_any_step(tmp_path: Path, optimizer: str, schedule: str, precision: str) -> None:
    options: dict[str, Any] = {"optimizer": optimizer, "schedule": schedule, "precision": precision}
    uninterrupted = trainer(epochs=2, **options)
    uninterrupted.fit()

    def fail(row: Row) -> None:
        if row["step"] == 6:
            raise InterruptedError

    interrupted = trainer(epochs=2, checkpoint=Checkpoint(tmp_path), callback=Log(fail), **options)
    with pytest.raises(InterruptedError):
        interrupted.fit()
    torch.manual_seed(99)  # the generator of a new process has a different state
    log = Log()
    resumed = trainer(epochs=2, checkpoint=Checkpoint(tmp_path), callback=log, **options)
    resumed.fit()
    assert have_equal_results(resumed, uninterrupted)
    assert len(log.steps) < 2 * STEPS


def test_two_epochs_resumed_for_two_more(tmp_path: Path) -> None:
    uninterrupted, first = trainer(), trainer(checkpoint=Checkpoint(tmp_path), checkpoint_seconds=1000.0)
    uninterrupted.fit()
    first.interrupted = lambda: first.epoch == 2
    with pytest.raises(TrainingInterrupted):
        first.fit()
    assert first.step == 2 * STEPS
    log = Log()
    second = trainer(checkpoint=Checkpoint(tmp_path), callback=log)
    second.fit()
    assert have_equal_results(second, uninterrupted)
    assert [row["epoch"] for row in log.epochs] == [3, 4]
    assert len(log.steps) == 2 * STEPS


def test_a_stop_during_validation_keeps_the_state_of_the_end_of_the_epoch(tmp_path: Path) -> None:
    def stop(_detector: Detector) -> Row:
        raise TrainingInterrupted

    uninterrupted = trainer(epochs=2)
    uninterrupted.fit()
    with pytest.raises(TrainingInterrupted):
        trainer(epochs=2, validate=stop, checkpoint=Checkpoint(tmp_path), checkpoint_seconds=1000.0).fit()
    log = Log()
    resumed = trainer(epochs=2, checkpoint=Checkpoint(tmp_path), callback=log)
    resumed.fit()
    assert have_equal_results(resumed, uninterrupted)
    assert [row["epoch"] for row in log.epochs] == [1, 2]
    assert len(log.steps) == STEPS


def test_a_stop_that_ends_the_loaders_workers_is_not_an_error(tmp_path: Path) -> None:
    """A signal to all processes of a group, such as Ctrl-C."""

    def batches(_epoch: int, _first: int) -> Any:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated")
        yield

    stopped = trainer(batches=batches, checkpoint=Checkpoint(tmp_path), interrupted=lambda: True)
    with pytest.raises(TrainingInterrupted):
        stopped.fit()
    with pytest.raises(RuntimeError, match="worker"):
        trainer(batches=batches).fit()


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = trainer(epochs=1, checkpoint=Checkpoint(tmp_path))
    first.fit()
    log = Log()
    again = trainer(epochs=1, checkpoint=Checkpoint(tmp_path), callback=log)
    again.fit()
    assert log == Log(function=log.function)
    assert have_equal_results(again, first)


def scores(*values: float) -> Callable[[Detector], Row]:
    """A validation that returns the given scores one after another."""
    remaining = iter(values)
    return lambda _detector: {"AP": next(remaining)}


def test_early_stopping_and_the_weights_of_the_best_epoch() -> None:
    validated: list[dict[str, torch.Tensor]] = []
    next_score = scores(0.1, 0.3, 0.3, 0.2, 0.9)

    def validate(detector: Detector) -> Row:
        validated.append({name: value.clone() for name, value in detector.state_dict().items()})
        return next_score(detector)

    stopped = trainer(epochs=5, patience=2, validate=validate)
    history = stopped.fit()
    assert history.stopped_early
    assert [row["AP"] for row in history.epochs] == [0.1, 0.3, 0.3, 0.2]
    assert stopped.best
    assert stopped.best.row["epoch"] == 2
    assert all(torch.equal(value, stopped.best.weights[name]) for name, value in validated[1].items())


def test_patience_continues_after_an_interruption(tmp_path: Path) -> None:
    first = trainer(epochs=5, patience=2, validate=scores(0.3, 0.2), checkpoint=Checkpoint(tmp_path))
    first.interrupted = lambda: first.epoch == 2
    with pytest.raises(TrainingInterrupted):
        first.fit()
    second = trainer(epochs=5, patience=2, validate=scores(0.1), checkpoint=Checkpoint(tmp_path))
    assert second.fit().stopped_early
    assert second.best
    assert second.best.row["epoch"] == 1


def test_a_complete_training_did_not_stop_early() -> None:
    assert not trainer(epochs=2, patience=1, validate=scores(0.3, 0.2)).fit().stopped_early


def test_without_a_score_the_last_weights_are_the_best() -> None:
    finished = trainer(epochs=2, validate=lambda _detector: {})
    finished.fit()
    assert finished.best
    assert finished.best.row["epoch"] == 2


def test_damaged_best_weights_give_a_warning_and_are_chosen_again(tmp_path: Path) -> None:
    first = trainer(epochs=3, validate=scores(0.5, 0.4), checkpoint=Checkpoint(tmp_path))
    first.interrupted = lambda: first.epoch == 2
    with pytest.raises(TrainingInterrupted):
        first.fit()
    (tmp_path / "best.pt").write_bytes(b"")
    warnings: list[str] = []
    second = trainer(epochs=3, validate=scores(0.2), checkpoint=Checkpoint(tmp_path, warnings.append))
    second.fit()
    best = tmp_path / "best.pt"
    assert warnings == [f"{best}: damaged (wrong checksum); the best weights are chosen again from here on"]
    assert second.best
    assert second.best.row["epoch"] == 3
