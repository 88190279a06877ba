"""Assignment against an oracle that a person can check by eye: one location, one object at a time."""

import math

import fcos.assign
import pytest
import torch
from fcos.assign import Assignment, Targets, assign_fcos, targets
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos.points import Points, points

PYRAMID = points([(16, 16), (8, 8), (4, 4)], [8, 16, 32])  # of an image of 128×128


def oracle(pyramid: Points, boxes: list[list[float]], radius: float) -> list[int | None]:
    """The object that each location learns, by the paper's words."""
    chosen: list[int | None] = []
    for (x, y), stride, (low, high) in zip(
        pyramid.locations.tolist(), pyramid.strides.tolist(), pyramid.ranges.tolist(), strict=True
    ):
        best, best_area = None, math.inf
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            distances = (x - x1, y - y1, x2 - x, y2 - y)
            inside = min(distances) > 0
            off_centre = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
            central = radius == 0 or off_centre < radius * stride
            if inside and central and low < max(distances) <= high and (x2 - x1) * (y2 - y1) < best_area:
                best, best_area = index, (x2 - x1) * (y2 - y1)
        chosen.append(best)
    return chosen


def assign(boxes: list[list[list[float]]], radius: float) -> Assignment:
    """Each image's boxes, the label being the box's place in its image."""
    each = [torch.tensor(one).view(-1, 4) for one in boxes]
    return assign_fcos(PYRAMID, targets(each, [torch.arange(len(one)) for one in each]), radius=radius)


# Quarter pixels are exact in float32, so that oracle and tensor code compare the same numbers.
position = st.integers(0, 4 * 120).map(lambda value: value / 4)
side = st.integers(4, 4 * 128).map(lambda value: value / 4)
box = st.tuples(position, position, side, side).map(
    lambda b: [b[0], b[1], min(128.0, b[0] + b[2]), min(128.0, b[1] + b[3])]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(box, max_size=6), min_size=1, max_size=3), st.sampled_from([0.0, 1.5, 2.5]))
def test_assignment_is_the_oracles(images: list[list[list[float]]], radius: float) -> None:
    made = assign(images, radius)
    for index, boxes in enumerate(images):
        expected = oracle(PYRAMID, boxes, radius)
        assert made.positive[index].tolist() == [one is not None for one in expected]
        found = [
            label for label, positive in zip(made.labels[index].tolist(), made.positive[index], strict=True) if positive
        ]
        assert found == [one for one in expected if one is not None]


def test_by_hand() -> None:
    """A box of 16×16 around (24, 24): with radius 1.5·8 = 12 the four locations within 12 pixels of its centre."""
    made = assign([[[16.0, 16.0, 32.0, 32.0]]], radius=1.5)
    assert PYRAMID.locations[made.positive[0]].tolist() == [[20, 20], [28, 20], [20, 28], [28, 28]]
    assert made.ltrb[0, made.positive[0]].tolist() == [[4, 4, 12, 12], [12, 4, 4, 12], [4, 12, 12, 4], [12, 12, 4, 4]]


def test_the_smaller_of_two_boxes_wins_even_by_a_hair() -> None:
    """Areas that 1e8 − area can't tell apart in float32."""
    made = assign([[[0.0, 0.0, 40.0, 40.25], [0.0, 0.0, 40.0, 40.0]]], radius=0)
    assert set(made.labels[0, made.positive[0]].tolist()) == {1}


def test_images_without_objects_are_all_background() -> None:
    made = assign([[], [[8.0, 8.0, 40.0, 40.0]], []], radius=1.5)
    assert made.positive.any(dim=1).tolist() == [False, True, False]
    assert (made.ltrb[0] == 1).all()


def test_no_images() -> None:
    assert targets([], []).boxes.shape == (0, 1, 4)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(5, 9, 2, generator=generator) * 90
    boxes = torch.cat([corners, corners + 4 + torch.rand(5, 9, 2, generator=generator) * 60], dim=-1)
    batch = Targets(boxes, torch.arange(9).expand(5, 9), torch.ones(5, 9, dtype=torch.bool))
    whole = assign_fcos(PYRAMID, batch, radius=1.5)
    monkeypatch.setattr(fcos.assign, "_CHUNK", 1)
    pieces = assign_fcos(PYRAMID, batch, radius=1.5)
    for name, tensor in vars(whole).items():
        assert torch.equal(tensor, getattr(pieces, name)), name
