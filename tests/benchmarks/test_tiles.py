"""The scenes of the benchmark of tiles, and its card."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tiles
from benchmarks.tiles import Outcome, card, make_split, scene
from pipeline.data.annotations import problems
from pipeline.datasets import digits


def test_scenes_have_small_digits_that_do_not_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_SCENE", 200)
    split = make_split(tmp_path, "val", scenes=2, count=30)
    assert list(problems(split)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["val-1.jpg", "val-2.jpg"]
    boxes = [np.array([item.bbox for item in group]) for group in split.by_image().values()]
    for x, y, w, h in (found.T for found in boxes):
        assert len(x) >= 25
        assert 6 <= h.min() <= h.max() <= 16
        left, right = np.maximum(x, x[:, None]), np.minimum(x + w, (x + w)[:, None])
        top, bottom = np.maximum(y, y[:, None]), np.minimum(y + h, (y + h)[:, None])
        both = (right - left).clip(0) * (bottom - top).clip(0)
        assert np.count_nonzero(both) == len(x)  # each with itself
    again = scene(digits.load_material("val", 0), np.random.default_rng((0, 1, 1)), 30)
    assert [tuple(map(float, box)) for _, box in again[1]] == [item.bbox for item in split.by_image()[1]]


def test_the_card_has_the_gain() -> None:
    outcomes = [Outcome("whole images", 99, 99, 60.4, 0.012, 0.1), Outcome("tiles", 6, 300, 60.0, 0.0, 0.312)]
    options = argparse.Namespace(train=5, val=2, digits=200, epochs=6, probe=6)
    text = card(outcomes, options)
    assert "| whole images | 99 | 99 | 60 | 1.2 | 10.0 |\n| tiles | 6 | 300 | 60 | 0.0 | 31.2 |" in text
    assert "none in either, at equal CPU time: +30.0 points of AP50 (goal: +20)" in text
