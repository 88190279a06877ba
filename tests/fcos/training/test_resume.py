"""A training that was interrupted, however it was, ends as one that nobody disturbed, bit for bit."""

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


def equal(a: Trainer, b: Trainer) -> bool:
    theirs = weights(b)
    return all(torch.equal(value, theirs[name]) for name, value in weights(a).items()) and a.history == b.history


def test_killed_ten_times_and_ended_as_if_undisturbed(tmp_path: Path) -> None:
    """SGD, EMA and AMP: `kill -9` in steps, while a state is written, while validating."""
    draw = random.Random(0)
    moments = [*MOMENTS * 3, "step"]
    draw.shuffle(moments)
    killed = tmp_path / "killed"
    for moment in moments:
        (killed / "validating").unlink(missing_ok=True)
        running = process(killed)
        wait_for(seen(killed, moment, draw), running)
        time.sleep(draw.uniform(0, 0.01))
        assert running.pid
        os.kill(running.pid, signal.SIGKILL)
        running.join()
        assert running.exitcode == -signal.SIGKILL
    for folder in (killed, tmp_path / "whole"):
        running = process(folder)
        running.join()
        assert running.exitcode == 0
    assert (killed / "end.safetensors").read_bytes() == (tmp_path / "whole/end.safetensors").read_bytes()


def process(folder: Path) -> ForkServerProcess:
    context = get_context("forkserver")  # imports torch once, not eleven times
    context.set_forkserver_preload(["tests.support.interrupted_training"])
    running = context.Process(target=trainings.train, args=(folder, 10))
    running.start()
    return running


def seen(folder: Path, moment: str, draw: random.Random) -> Callable[[], bool]:
    steps = folder / "steps"
    enough = draw.randint(1, 3) + (steps.stat().st_size if steps.exists() else 0)
    return {
        "step": lambda: steps.exists() and steps.stat().st_size >= enough,
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
        ("sgd", "step", "float32"),
    ],
)
def test_a_crash_in_any_step(tmp_path: Path, optimizer: str, schedule: str, precision: str) -> None:
    kind: dict[str, Any] = {"optimizer": optimizer, "schedule": schedule, "precision": precision}
    whole = trainer(epochs=2, **kind)
    whole.fit()

    def fail(row: Row) -> None:
        if row["step"] == 6:
            raise InterruptedError

    broken = trainer(epochs=2, checkpoint=Checkpoint(tmp_path), callback=Log(fail), **kind)
    with pytest.raises(InterruptedError):
        broken.fit()
    torch.manual_seed(99)  # another process has another generator
    log = Log()
    resumed = trainer(epochs=2, checkpoint=Checkpoint(tmp_path), callback=log, **kind)
    resumed.fit()
    assert equal(resumed, whole)
    assert len(log.steps) < 2 * STEPS


def test_two_epochs_and_two_are_four(tmp_path: Path) -> None:
    whole, first = trainer(), trainer(checkpoint=Checkpoint(tmp_path), checkpoint_seconds=1000.0)
    whole.fit()
    first.interrupted = lambda: first.epoch == 2
    with pytest.raises(TrainingInterrupted):
        first.fit()
    assert first.step == 2 * STEPS
    log = Log()
    second = trainer(checkpoint=Checkpoint(tmp_path), callback=log)
    second.fit()
    assert equal(second, whole)
    assert [row["epoch"] for row in log.epochs] == [3, 4]
    assert len(log.steps) == 2 * STEPS


def test_stopped_while_validating_the_state_is_that_of_the_epochs_end(tmp_path: Path) -> None:
    def stop(_detector: Detector) -> Row:
        raise TrainingInterrupted

    whole = trainer(epochs=2)
    whole.fit()
    with pytest.raises(TrainingInterrupted):
        trainer(epochs=2, validate=stop, checkpoint=Checkpoint(tmp_path), checkpoint_seconds=1000.0).fit()
    log = Log()
    resumed = trainer(epochs=2, checkpoint=Checkpoint(tmp_path), callback=log)
    resumed.fit()
    assert equal(resumed, whole)
    assert [row["epoch"] for row in log.epochs] == [1, 2]
    assert len(log.steps) == STEPS


def test_a_stop_is_no_failure_of_the_loader(tmp_path: Path) -> None:
    """A signal to all processes ends the loader's workers too."""

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
    assert log == Log(told=log.told)
    assert equal(again, first)


def scores(*values: float) -> Callable[[Detector], Row]:
    left = iter(values)
    return lambda _detector: {"AP": next(left)}


def test_training_ends_early_and_its_best_weights_are_those_of_its_best_epoch() -> None:
    known: list[dict[str, torch.Tensor]] = []
    following = scores(0.1, 0.3, 0.3, 0.2, 0.9)

    def validate(detector: Detector) -> Row:
        known.append({name: value.clone() for name, value in detector.state_dict().items()})
        return following(detector)

    early = trainer(epochs=5, patience=2, validate=validate)
    history = early.fit()
    assert history.stopped_early
    assert [row["AP"] for row in history.epochs] == [0.1, 0.3, 0.3, 0.2]
    assert early.best
    assert early.best.row["epoch"] == 2
    assert all(torch.equal(value, early.best.weights[name]) for name, value in known[1].items())


def test_patience_goes_on_after_an_interruption(tmp_path: Path) -> None:
    first = trainer(epochs=5, patience=2, validate=scores(0.3, 0.2), checkpoint=Checkpoint(tmp_path))
    first.interrupted = lambda: first.epoch == 2
    with pytest.raises(TrainingInterrupted):
        first.fit()
    second = trainer(epochs=5, patience=2, validate=scores(0.1), checkpoint=Checkpoint(tmp_path))
    assert second.fit().stopped_early
    assert second.best
    assert second.best.row["epoch"] == 1


def test_training_to_its_end_did_not_stop_early() -> None:
    assert not trainer(epochs=2, patience=1, validate=scores(0.3, 0.2)).fit().stopped_early


def test_without_a_score_the_last_weights_are_the_best() -> None:
    ended = trainer(epochs=2, validate=lambda _detector: {})
    ended.fit()
    assert ended.best
    assert ended.best.row["epoch"] == 2


def test_best_weights_that_are_damaged_are_told_and_found_anew(tmp_path: Path) -> None:
    first = trainer(epochs=3, validate=scores(0.5, 0.4), checkpoint=Checkpoint(tmp_path))
    first.interrupted = lambda: first.epoch == 2
    with pytest.raises(TrainingInterrupted):
        first.fit()
    (tmp_path / "best.pt").write_bytes(b"")
    told: list[str] = []
    second = trainer(epochs=3, validate=scores(0.2), checkpoint=Checkpoint(tmp_path, told.append))
    second.fit()
    assert told == [f"{tmp_path / 'best.pt'}: damaged (wrong checksum); the best weights are chosen again from here on"]
    assert second.best
    assert second.best.row["epoch"] == 3
