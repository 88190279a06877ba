"""Input sizes: scale, letterbox, and limits; distributions that reach the levels' distances."""

from dataclasses import replace

import pytest

from fcos.config import PAPER, InputSize


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [(480, 640, (800, 1333), 800 / 480), (480, 1200, (800, 1333), 1333 / 1200), (256, 256, (256, 256), 1.0)],
)
def test_the_shorter_side_is_scaled_unless_the_longer_side_exceeds_its_limit(
    height: int, width: int, size: tuple[int, int], expected: float
) -> None:
    assert InputSize(size).scale(height, width) == InputSize(size).scale(width, height) == pytest.approx(expected)
    assert InputSize(size).canvas is None


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [(100, 200, (640, 640), (320, 640)), (200, 100, (480, 640), (480, 240)), (480, 640, (480, 640), (480, 640))],
)
def test_letterbox_fits_the_whole_image_into_the_canvas(
    height: int, width: int, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    input_size = InputSize(size, letterbox=True)
    assert input_size.resized(height, width) == expected
    assert input_size.canvas == size


def test_a_side_has_at_least_one_pixel() -> None:
    assert InputSize((10, 10)).resized(1, 1000) == (1, 10)


def test_distributions_reach_the_distances_of_each_level_but_the_last() -> None:
    config = replace(PAPER, levels=(3, 4, 5), box_output="distribution")
    assert replace(config, regression_ranges=(128.0, 256.0)).distribution_max == 16  # 16 · 8 and 16 · 16 pixels
    assert replace(config, distribution_max=8).regression_ranges is None  # 8 strides
    with pytest.raises(
        ValueError, match=r"^regression_ranges: 257 pixels at level 4 are more than distribution_max 16"
    ):
        replace(config, regression_ranges=(64.0, 257.0))
    with pytest.raises(ValueError, match=r"^distribution_max: 7 must be 8 or more: without regression_ranges"):
        replace(config, distribution_max=7)
    assert replace(config, levels=(3,), distribution_max=7).strides == (8,)
    assert replace(config, assigner="atss", distribution_max=7).distribution_max == 7
    assert replace(config, box_output="relu", regression_ranges=(64.0, 257.0)).box_output == "relu"
