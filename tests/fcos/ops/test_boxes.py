"""Box operations: worked out by hand, compared with torchvision's, and inverted."""

import torch
import torchvision.ops
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fcos.ops.boxes import aligned_iou, area, boxes_from_ltrb, clip, contains, hull_sides, ltrb_from_boxes

coordinates = st.floats(-1000, 1000, width=32)


def box_strategy() -> st.SearchStrategy[list[float]]:
    sides = st.floats(0.125, 500, width=32)
    return st.tuples(coordinates, coordinates, sides, sides).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


def test_ltrb_by_hand() -> None:
    location, box = torch.tensor([10.0, 20.0]), torch.tensor([4.0, 5.0, 30.0, 60.0])
    assert ltrb_from_boxes(location, box).tolist() == [6, 15, 20, 40]


def test_a_location_outside_has_a_negative_distance() -> None:
    assert ltrb_from_boxes(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0, 3.0, 2.0])).tolist() == [-1, 1, 2, 1]


@given(box_strategy(), coordinates, coordinates)
def test_ltrb_and_back(box: list[float], x: float, y: float) -> None:
    location = torch.tensor([x, y], dtype=torch.float64)
    expected = torch.tensor(box, dtype=torch.float64)
    torch.testing.assert_close(boxes_from_ltrb(location, ltrb_from_boxes(location, expected)), expected)


@given(st.lists(st.tuples(box_strategy(), box_strategy()), min_size=1, max_size=8))
def test_aligned_iou_equals_the_diagonal_of_torchvisions(pairs: list[tuple[list[float], list[float]]]) -> None:
    a, b = (torch.tensor(boxes, dtype=torch.float64) for boxes in zip(*pairs, strict=True))
    iou, union = aligned_iou(a, b)
    torch.testing.assert_close(iou, torchvision.ops.box_iou(a, b).diagonal())
    torch.testing.assert_close(union, area(a) + area(b) - iou * union)


def test_empty_boxes_have_no_area_and_no_iou() -> None:
    empty = torch.tensor([[5.0, 5.0, 5.0, 9.0], [3.0, 3.0, 1.0, 1.0]])
    assert area(empty).tolist() == [0, 0]
    assert aligned_iou(empty, empty)[0].tolist() == [0, 0]


def test_clip() -> None:
    boxes: Tensor = clip(torch.tensor([[-3.0, 2.0, 50.0, 40.0]]), height=20, width=30)
    assert boxes.tolist() == [[0, 2, 30, 20]]


def test_a_box_contains_locations_inside_but_not_on_its_sides() -> None:
    box = torch.tensor([2.0, 3.0, 6.0, 5.0])
    locations = torch.tensor([[4.0, 4.0], [2.0, 4.0], [6.0, 4.0], [4.0, 3.0], [4.0, 5.0], [7.0, 4.0], [4.0, 2.0]])
    assert contains(box, locations).tolist() == [True] + [False] * 6


def test_sides_of_the_hull_by_hand() -> None:
    a, b = torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([[1.0, -4.0, 5.0, 2.0]])
    assert hull_sides(a, b).tolist() == [[5.0, 7.0]]
