"""What a training leaves: the detector, the other weights beside it, and what is known of its best epoch."""

from pathlib import Path

import pytest
import torch

from fcos.config import InputSize
from fcos.detector import build
from fcos.training.history import Best, History
from fcos.weights import Description, load_detector
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
    told = training_summary(history, best, overfit=0, images_per_second=10.0)
    assert told["stopped_early"]
    assert told["epochs"] == 2
    assert told["best"] == {"epoch": 1, "AP": 0.25, "AP50": 0.5}
    assert told["val"] == {"AP": 0.125, "AP50": 0.25}
