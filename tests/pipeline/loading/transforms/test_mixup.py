"""Mixup of painted images, compared with values worked out by hand."""

from random import Random

import pytest
import torch

from pipeline.loading.transforms.mixup import mixup, random_weight
from tests.support.painted_scenes import scene


def test_boxes_and_colors_of_a_mixed_image() -> None:
    below, above = scene(40, 80, [[10, 10, 70, 30]]), scene(80, 80, [[0, 0, 80, 80]], first=1)
    mixed = mixup(below, above, 0.25)  # red, with green at half its size over the left half
    assert mixed.boxes.tolist() == [[10, 10, 70, 30], [0, 0, 40, 40]]
    assert mixed.labels.tolist() == [0, 1]
    for (row, column), color in {
        (0, 0): (0, 63, 0),
        (20, 20): (191, 63, 0),
        (20, 60): (255, 0, 0),
        (0, 60): (0, 0, 0),
    }.items():
        assert mixed.image[:, row, column].tolist() == pytest.approx(color, abs=1)
    assert below.image[:, 0, 0].tolist() == [0, 0, 0], "the first image was written to"


def test_weights_keep_both_images_visible() -> None:
    weights = torch.tensor([random_weight(Random(seed)) for seed in range(400)])
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.min() > 0.1
    assert weights.max() < 0.9
