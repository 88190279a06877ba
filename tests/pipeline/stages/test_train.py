"""What a training leaves: the detector, the other weights beside it, and what is known of its best epoch."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from fcos.config import InputSize
from fcos.detector import build
from fcos.training.history import Best, History
from fcos.training.trainer import Trainer
from fcos.weights import Description, load_detector
from pipeline import params
from pipeline.datasets import digits
from pipeline.stages import convert, train
from pipeline.stages.train import early_stopping_message, training_summary, write_weights
from tests.support.interrupted_training import MODEL

STEP = dict.fromkeys(("total", "classification", "box", "quality", "quality_floor"), 1.0)
EPOCHS = [{"epoch": epoch, "step": epoch * 2, "AP": ap, "AP50": 2 * ap} for epoch, ap in ((1, 0.25), (2, 0.125))]


@pytest.mark.parametrize(("keep", "other"), [("last", "best"), ("best", "last")])
def test_one_becomes_the_detector_and_the_other_lies_beside_it(tmp_path: Path, keep: str, other: str) -> None:
    last = build(MODEL, 1)
    best = Best(EPOCHS[0], {name: torch.zeros_like(value) for name, value in last.state_dict().items()})
    about = Description(model=MODEL, categories=((1, "a"),), input_size=InputSize((64, 64), letterbox=False))
    marks = {"last": last.head.box.weight[0, 0, 0, 0].item(), "best": 0.0}
    (tmp_path / f"{keep}.json").touch()  # of a training that kept the other
    files = write_weights(last, best, about, tmp_path, keep=keep)
    assert files == (tmp_path / "detector.safetensors", tmp_path / f"{other}.safetensors")
    names = {f"{name}.{kind}" for name in ("detector", other) for kind in ("safetensors", "json")}
    assert {path.name for path in tmp_path.iterdir()} == names
    found = [load_detector(path)[0].head.box.weight[0, 0, 0, 0].item() for path in files]
    assert found == [marks[keep], marks[other]]


def test_an_early_end_is_told() -> None:
    history, best = History([STEP] * 4, EPOCHS, stopped_early=True), Best(EPOCHS[0], {})
    assert early_stopping_message(history, best, 8) == (
        "stopped early after epoch 2 of 8: no improvement on AP 0.250 of epoch 1"
    )
    assert early_stopping_message(History([STEP] * 4, EPOCHS), best, 2) == ""


def test_the_metrics_of_a_training() -> None:
    steps = [STEP | {"step": step} for step in range(7, 11)]  # of an extended training, after six others
    history, best = History(steps, EPOCHS, stopped_early=True), Best(EPOCHS[0], {})
    summary = training_summary(history, best, overfit=0, images_per_second=10.0)
    assert summary["steps"] == 10
    assert summary["stopped_early"]
    assert summary["epochs"] == 2
    assert summary["best"] == {"epoch": 1, "AP": 0.25, "AP50": 0.5}
    assert summary["val"] == {"AP": 0.125, "AP50": 0.25}
    assert summary["images_per_second"] == 10.0


@pytest.fixture
def trained(home: Path, setting: Callable[..., None]) -> Callable[[], None]:
    """Trains on a few digits; returns the function that removes the training's state."""
    setting(
        **{
            **{"download.digits.train": 8, "download.digits.val": 4, "download.digits.size": 64},
            **{"train.size": [64, 64], "train.epochs": 1, "model.channels": 16, "machine.device": "cpu"},
        }
    )
    digits.make(params.load(), home / "data/raw/digits")
    convert.run(params.load())
    return train.run(params.load())


def test_a_result_that_was_refused_is_written_again_from_the_kept_state(
    home: Path, trained: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner refuses it if a file was edited meanwhile, and doesn't call the function that removes the state."""
    weights = (home / "models/detector.safetensors").read_bytes()
    assert json.loads((home / "metrics/train.json").read_text())["images_per_second"] > 0
    (state,) = (path for path in (home / ".fcos/training").iterdir() if path.is_dir())
    assert (state / "state.pt").is_file()
    shutil.rmtree(home / "models")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", lambda *_: pytest.fail("a step is repeated"))
        remove_state = train.run(params.load())
    assert (home / "models/detector.safetensors").read_bytes() == weights
    assert json.loads((home / "metrics/train.json").read_text())["images_per_second"] is None  # nothing was trained
    with closing(sqlite3.connect(home / "mlflow.db")) as store:
        assert store.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]
    remove_state()
    assert list((home / ".fcos/training").iterdir()) == []
    trained()  # harmless: the state is gone
