"""Input sizes: scale, letterbox, and limits."""

import pytest

from fcos.config import InputSize


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
