import math

import torch

from fcos.points import level_locations, points, size_ranges


def test_locations_by_hand() -> None:
    """Row by row, in the middle of 8-pixel cells, x first."""
    assert level_locations(2, 3, 8).tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_the_papers_ranges() -> None:
    expected = [(0, 64), (64, 128), (128, 256), (256, 512), (512, math.inf)]
    assert size_ranges([8, 16, 32, 64, 128]) == expected


def test_a_single_level_answers_for_every_size() -> None:
    assert size_ranges([16]) == [(0, math.inf)]


def test_levels_come_one_after_the_other() -> None:
    made = points([(4, 6), (2, 3)], [8, 16])
    assert made.counts == (24, 6)
    assert made.locations.shape == (30, 2)
    assert made.strides.tolist() == [8] * 24 + [16] * 6
    assert made.ranges[0].tolist() == [0, 64]
    assert made.ranges[-1].tolist() == [64, math.inf]
    assert torch.equal(made.locations[24:], level_locations(2, 3, 16))
