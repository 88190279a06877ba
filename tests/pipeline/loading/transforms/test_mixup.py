"""Painted images laid over each other, by hand."""

from random import Random

import pytest
import torch

from pipeline.loading.transforms.mixup import mixup, weight_of
from tests.support.painted_scenes import scene


def test_mixup_by_hand() -> None:
    below, above = scene(40, 80, [[10, 10, 70, 30]]), scene(80, 80, [[0, 0, 80, 80]], first=1)
    found = mixup(below, above, 0.25)  # red, with green of half the size over its left half
    assert found.boxes.tolist() == [[10, 10, 70, 30], [0, 0, 40, 40]]
    assert found.labels.tolist() == [0, 1]
    for at, color in {(0, 0): (0, 63, 0), (20, 20): (191, 63, 0), (20, 60): (255, 0, 0), (0, 60): (0, 0, 0)}.items():
        assert found.image[:, at[0], at[1]].tolist() == pytest.approx(color, abs=1)
    assert below.image[:, 0, 0].tolist() == [0, 0, 0], "the first image was written to"


def test_weights_leave_both_images_to_be_seen() -> None:
    weights = torch.tensor([weight_of(Random(seed)) for seed in range(400)])
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.min() > 0.1
    assert weights.max() < 0.9
