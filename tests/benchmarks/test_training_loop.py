"""The trainings from files to updated weights, on small images."""

from functools import partial
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


@pytest.fixture
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [option.replace("[312, 416]", "[96, 128]") for option in training_loop._OPTIONS]
    monkeypatch.setattr(training_loop, "_OPTIONS", small)
    monkeypatch.setattr(training_loop, "_SIZE", (96, 128))


@pytest.mark.usefixtures("small_images")
def test_both_sides_have_the_same_losses(tmp_path: Path) -> None:
    """Rounding to 8 bits and different filters are all that their images differ by."""
    split = photographs(tmp_path, 32)
    train_ours = partial(training_loop.train_ours, training_loop.as_reference)
    ours, theirs = (losses(run, tmp_path, split, 3) for run in (train_ours, training_loop.train_theirs))
    assert ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.usefixtures("small_images")
def test_the_recipe(tmp_path: Path) -> None:
    """It trains in the precision that is faster, with its own optimizer and losses."""
    params, weights = training_loop.as_recipe()
    assert (params.train.precision, params.train.optimizer, weights) == ("auto", "muon", None)
    first, *_ = losses(
        partial(training_loop.train_ours, training_loop.as_recipe), tmp_path, photographs(tmp_path, 8), 1
    )
    assert 0 < first < 20
