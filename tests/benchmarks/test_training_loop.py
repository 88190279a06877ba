"""The trainings from files to updated weights, on small images."""

from pathlib import Path

import pytest

from benchmarks import training_loop
from benchmarks.loader import photographs
from pipeline.data.annotations import AnnotationSet


class Enough(Exception):
    """Ends a training."""


def losses(run: training_loop.Run, folder: Path, split: AnnotationSet, steps: int) -> list[float]:
    values: list[float] = []

    def wait(loss: float) -> None:
        values.append(loss)
        if len(values) > steps:
            raise Enough

    with pytest.raises(Enough):
        run(folder, split, wait)
    return values[1:]


def test_both_sides_have_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding to 8 bits and different filters are all that their images differ by."""
    small = [option.replace("[312, 416]", "[96, 128]") for option in training_loop._OPTIONS]
    monkeypatch.setattr(training_loop, "_OPTIONS", small)
    monkeypatch.setattr(training_loop, "_SIZE", (96, 128))
    split = photographs(tmp_path, 32)
    ours, theirs = (losses(run, tmp_path, split, 3) for run in (training_loop.train_ours, training_loop.train_theirs))
    assert ours == pytest.approx(theirs, rel=0.05)
