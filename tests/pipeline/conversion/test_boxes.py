import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.conversion.boxes import check_box
from pipeline.data.annotations import box_problem


@pytest.mark.parametrize(
    ("box", "kept", "code"),
    [
        ((0, 0, 40, 30), (0, 0, 40, 30), None),
        ((5, 6, 1.5, 2), (5, 6, 1.5, 2), None),
        ((-1, 2, 10, 10), (0, 2, 9, 10), None),  # VOC's xmin = 0
        ((35, 25, 6, 6), (35, 25, 5, 5), None),
        ((35, 25, 6.5, 5), (35, 25, 5, 5), "out_of_bounds_box"),
        ((-3, 2, 10, 10), (0, 2, 7, 10), "out_of_bounds_box"),
        ((39.5, 2, 10, 10), None, "out_of_bounds_box"),  # half a pixel is left
        ((50, 2, 10, 10), None, "out_of_bounds_box"),
        ((503, 336, 1, 1), None, "tiny_box"),  # BCCD's
        ((5, 5, 10, 0.5), None, "tiny_box"),
        ((5, 5, 0, 10), None, "degenerate_box"),
        ((5, 5, -4, 10), None, "swapped_corners"),
        ((5, 5, float("nan"), 10), None, "non_finite_box"),
        ((5, float("-inf"), 3, 10), None, "non_finite_box"),
    ],
)
def test_worked_by_hand(box: tuple[float, ...], kept: tuple[float, ...] | None, code: str | None) -> None:
    result, fault = check_box(box, 40, 30)  # type: ignore[arg-type]
    assert result == kept
    assert (fault and fault.code) == code


def test_rounding_noise_changes_nothing() -> None:
    x, w = 473.07, 166.93
    assert x + w > 640 or x + w == 640
    assert check_box((x, 0, w, 10), 640, 480) == ((x, 0, w, 10), None)


numbers = st.floats(-300, 300)


@given(st.tuples(numbers, numbers, numbers, numbers), st.integers(1, 200), st.integers(1, 200))
def test_result_is_the_valid_part_inside_the_image(
    box: tuple[float, float, float, float], width: int, height: int
) -> None:
    kept, fault = check_box(box, width, height)
    assert kept is not None or fault is not None
    if kept is not None:
        assert box_problem(kept, width, height) is None
        assert check_box(kept, width, height) == (kept, None)  # a repaired box needs no repair
        x, y, w, h = box
        corners = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])
        assert np.allclose(corners, [kept[0], kept[1], kept[0] + kept[2], kept[1] + kept[3]], atol=1e-3)


@given(st.integers(0, 199), st.integers(0, 199), st.integers(2, 200), st.integers(2, 200))
def test_valid_boxes_are_unchanged(x: int, y: int, w: int, h: int) -> None:
    assert check_box((x, y, w, h), x + w, y + h) == ((x, y, w, h), None)
