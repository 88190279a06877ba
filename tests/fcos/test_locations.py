"""Locations of the pyramid: their coordinates, strides and ranges of sizes, worked out by hand."""

import math

import torch

from fcos.locations import LevelGrid, make_locations, size_ranges


def test_locations_by_hand() -> None:
    """Row by row, in the middle of cells of 8 pixels, as (x, y)."""
    grid = LevelGrid(height=2, width=3, stride=8, step_x=8, step_y=8, first=4.0, above=0.0, up_to=math.inf)
    assert grid.xy().tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_corner_locations_by_hand() -> None:
    assert make_locations([(2, 2)], [8], mode="corner").xy.tolist() == [[0, 0], [8, 0], [0, 8], [8, 8]]


def test_torchvisions_grid_divides_an_input_that_is_no_multiple_of_the_stride() -> None:
    """24×40 pixels: the second level has 2×3 cells of stride 16, at distances of 12 and 13 pixels."""
    locations = make_locations([(3, 5), (2, 3)], [8, 16], mode="torchvision")
    assert locations.xy[15:].tolist() == [[0, 0], [13, 0], [26, 0], [0, 12], [13, 12], [26, 12]]


def test_torchvisions_ranges_are_open() -> None:
    ranges = make_locations([(2, 2), (1, 1)], [8, 16], mode="torchvision").ranges
    assert ranges[-1, 0] == 64
    assert torch.nextafter(ranges[0, 1], torch.tensor(math.inf)) == 64
    assert make_locations([(2, 2), (1, 1)], [8, 16]).ranges[0, 1] == 64


def test_the_papers_ranges() -> None:
    expected = [(0, 64), (64, 128), (128, 256), (256, 512), (512, math.inf)]
    assert size_ranges([8, 16, 32, 64, 128]) == expected


def test_ranges_can_be_given() -> None:
    assert size_ranges([8, 16, 32], [40, 90.5]) == [(0, 40), (40, 90.5), (90.5, math.inf)]


def test_a_single_level_has_all_sizes() -> None:
    assert size_ranges([16]) == [(0, math.inf)]


def test_levels_are_concatenated() -> None:
    locations = make_locations([(4, 6), (2, 3)], [8, 16])
    assert locations.counts == (24, 6)
    assert locations.xy.shape == (30, 2)
    assert locations.strides.tolist() == [8] * 24 + [16] * 6
    assert locations.ranges[0].tolist() == [0, 64]
    assert locations.ranges[-1].tolist() == [64, math.inf]
    assert torch.equal(locations.xy[24:], locations.grids[1].xy())
