"""FCOS assignment, compared with a slow and obvious implementation; and tests of every assigner."""

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fcos.assigners.fcos
from fcos.assigners import ASSIGNERS
from fcos.assigners.conflicts import resolve
from fcos.assigners.fcos import assign_fcos, match_everywhere, match_near_centers
from fcos.config import PAPER, ModelConfig
from fcos.locations import Locations, make_locations
from fcos.structures import Assignment, Outputs, Targets, make_targets
from tests.support.device_sync import NoSynchronization

PYRAMID = make_locations([(16, 16), (8, 8), (4, 4)], [8, 16, 32])  # of an image of 128×128


def config(**fields: object) -> ModelConfig:
    return replace(PAPER, pretrained=False, levels=(3, 4, 5), **fields)  # type: ignore[arg-type]


def random_outputs(pyramid: Locations, images: int, classes: int = 6, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    count = len(pyramid.xy)
    return Outputs(
        logits=torch.randn(images, count, classes, generator=generator),
        ltrb=torch.rand(images, count, 4, generator=generator) * 40,
        quality=None,
        locations=pyramid,
    )


def oracle(pyramid: Locations, boxes: list[list[float]], radius: float) -> list[int | None]:
    """The index of the object that each location is assigned to, as the paper describes it; None: background."""
    indices: list[int | None] = []
    for (x, y), stride, (low, high) in zip(
        pyramid.xy.tolist(), pyramid.strides.tolist(), pyramid.ranges.tolist(), strict=True
    ):
        best, best_area = None, math.inf
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            distances = (x - x1, y - y1, x2 - x, y2 - y)
            inside = min(distances) > 0
            off_center = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
            central = radius == 0 or off_center < radius * stride
            if inside and central and low < max(distances) <= high and (x2 - x1) * (y2 - y1) < best_area:
                best, best_area = index, (x2 - x1) * (y2 - y1)
        indices.append(best)
    return indices


def targets_of(images: list[list[list[float]]]) -> Targets:
    """The boxes of each image; labels are the indices of boxes in their image."""
    boxes = [torch.tensor(image_boxes).view(-1, 4) for image_boxes in images]
    return make_targets(boxes, [torch.arange(len(image_boxes)) for image_boxes in boxes])


def assign(images: list[list[list[float]]], radius: float, pyramid: Locations = PYRAMID) -> Assignment:
    outputs = random_outputs(pyramid, len(images))
    return assign_fcos(outputs, targets_of(images), config(center_sampling_radius=radius))


def random_targets(images: int, objects: int, side: float, seed: int) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, objects, 2, generator=generator) * side * 0.9
    lengths = (torch.rand(images, objects, 2, generator=generator) * math.log(side)).exp() + 2
    boxes = torch.cat([corners, corners + lengths], dim=-1)
    valid = torch.rand(images, objects, generator=generator) < 0.8
    return Targets(boxes, torch.randint(6, (images, objects), generator=generator), valid)


# Quarter pixels are exact in float32, so that oracle and tensor code compare the same numbers.
position = st.integers(0, 4 * 120).map(lambda value: value / 4)
side = st.integers(4, 4 * 128).map(lambda value: value / 4)
box = st.tuples(position, position, side, side).map(
    lambda b: [b[0], b[1], min(128.0, b[0] + b[2]), min(128.0, b[1] + b[3])]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(box, max_size=6), min_size=1, max_size=3), st.sampled_from([0.0, 0.5, 1.5, 2.5]))
def test_assignment_equals_the_oracles(images: list[list[list[float]]], radius: float) -> None:
    assignment = assign(images, radius)
    for image, boxes in enumerate(images):
        expected = oracle(PYRAMID, boxes, radius)
        positive = assignment.positive[image]
        assert positive.tolist() == [index is not None for index in expected]
        assert assignment.labels[image, positive].tolist() == [index for index in expected if index is not None]


@pytest.mark.parametrize("mode", ["center", "corner", "torchvision"])
@pytest.mark.parametrize("radius", [0.3, 1.0, 1.5, 2.7, 40.0])
def test_matching_near_centers_equals_matching_everywhere(mode: str, radius: float) -> None:
    """Exactly, including torchvision's locations at other distances than the strides, and levels of few cells."""
    shapes = [(23, 37), (12, 19), (6, 10), (3, 5), (2, 3)]
    for ends in (None, [33.3, 50.1, 111.7, 200.0]):
        pyramid = make_locations(shapes, [8, 16, 32, 64, 128], mode=mode, ends=ends)  # type: ignore[arg-type]
        for seed in range(4):
            targets = random_targets(3, 25, 296.0, seed)
            targets.boxes[0] = targets.boxes[0].round()  # many ties, and centers exactly at locations
            index, positive = match_near_centers(pyramid, targets, radius)
            expected, expected_positive = match_everywhere(pyramid, targets, radius)
            assert positive.any()
            assert torch.equal(positive, expected_positive)
            assert torch.equal(index, expected)


def test_by_hand() -> None:
    """A box of 16×16 around (24, 24) and radius 1.5·8 = 12: the four locations within 12 pixels of its center."""
    assignment = assign([[[16.0, 16.0, 32.0, 32.0]]], radius=1.5)
    positive = assignment.positive[0]
    assert PYRAMID.xy[positive].tolist() == [[20, 20], [28, 20], [20, 28], [28, 28]]
    assert assignment.ltrb[0, positive].tolist() == [[4, 4, 12, 12], [12, 4, 4, 12], [4, 12, 12, 4], [12, 12, 4, 4]]


@pytest.mark.parametrize("radius", [0.0, 1.5])
def test_the_smaller_of_two_boxes_wins_by_any_difference(radius: float) -> None:
    """In float32, 1e8 − area would be the same for both areas."""
    assignment = assign([[[0.0, 0.0, 40.0, 40.25], [0.0, 0.0, 40.0, 40.0]]], radius)
    assert set(assignment.labels[0, assignment.positive[0]].tolist()) == {1}


def test_ranges_move_an_object_to_another_level() -> None:
    """A box of 40×40 is assigned to the second level if the first level has sizes up to 20."""
    for ends, stride in ((None, 8), ([20.0, 64.0], 16)):
        pyramid = make_locations([(16, 16), (8, 8), (4, 4)], [8, 16, 32], ends=ends)
        assignment = assign([[[44.0, 44.0, 84.0, 84.0]]], radius=1.0, pyramid=pyramid)
        assert set(pyramid.strides[assignment.positive[0]].tolist()) == {stride}


def test_no_images() -> None:
    assert make_targets([], []).boxes.shape == (0, 1, 4)


def test_the_size_of_chunks_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = random_targets(5, 9, 128.0, 0)
    expected = match_everywhere(PYRAMID, targets, 0.0)
    monkeypatch.setattr(fcos.assigners.fcos, "_CHUNK", 1)
    for tensor, expected_tensor in zip(match_everywhere(PYRAMID, targets, 0.0), expected, strict=True):
        assert torch.equal(tensor, expected_tensor)


def test_the_lowest_cost_wins_and_the_first_of_equal_costs() -> None:
    """Three objects with two costs each, four locations: 0 is contested, 1 has a tie, 3 has only infinite costs."""
    cells = torch.tensor([[[0, 1], [1, 0], [0, 3]]])
    costs = torch.tensor([[[5.0, 2.0], [2.0, 4.0], [math.inf, math.inf]]])
    index, positive = resolve(cells, costs, 4)
    assert index.tolist() == [[1, 0, 0, 0]]
    assert positive.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("name", list(ASSIGNERS))
class TestEveryAssigner:
    def test_images_without_objects_are_background(self, name: str) -> None:
        targets = targets_of([[], [[8.0, 8.0, 40.0, 40.0]], []])
        assignment = ASSIGNERS[name](random_outputs(PYRAMID, 3), targets, config())
        assert assignment.positive.any(dim=1).tolist() == [False, True, False]
        assert (assignment.ltrb[0] == 1).all()

    def test_values_in_the_padding_do_not_matter(self, name: str) -> None:
        targets = targets_of([[[8.0, 8.0, 40.0, 40.0]], [[8.0, 8.0, 40.0, 40.0], [30.0, 30.0, 90.0, 100.0]]])
        other = Targets(targets.boxes.clone(), targets.labels, targets.valid)
        other.boxes[0, 1] = torch.tensor([20.0, 20.0, 70.0, 70.0])
        a, b = (ASSIGNERS[name](random_outputs(PYRAMID, 2), padded, config()) for padded in (targets, other))
        assert torch.equal(a.positive, b.positive)
        assert torch.equal(a.ltrb, b.ltrb)

    def test_the_first_of_identical_boxes_wins(self, name: str) -> None:
        # They have the same class, so task alignment is the same too.
        boxes = torch.tensor([[20.0, 20.0, 60.0, 60.0]] * 3)
        targets = make_targets([boxes], [torch.zeros(3, dtype=torch.int64)])
        assignment = ASSIGNERS[name](random_outputs(PYRAMID, 1), targets, config())
        assert assignment.positive.any()
        assert (assignment.index[assignment.positive] == 0).all()

    def test_objects_without_a_location_inside_are_not_assigned(self, name: str) -> None:
        targets = targets_of([[[300.0, 300.0, 340.0, 340.0], [5, 5, 7, 7]]])
        assert not ASSIGNERS[name](random_outputs(PYRAMID, 1), targets, config()).positive.any()

    def test_positive_locations_are_inside_their_objects(self, name: str) -> None:
        targets = random_targets(3, 12, 128.0, 5)
        assignment = ASSIGNERS[name](random_outputs(PYRAMID, 3), targets, config())
        positive, ltrb = assignment.positive, assignment.ltrb
        assert positive.sum() > 10
        assert (ltrb > 0).all()
        boxes = torch.cat([PYRAMID.xy - ltrb[..., :2], PYRAMID.xy + ltrb[..., 2:]], dim=-1)
        expected = torch.stack([boxes[index] for boxes, index in zip(targets.boxes, assignment.index, strict=True)])
        torch.testing.assert_close(boxes[positive], expected[positive])

    def test_no_operation_synchronizes_with_the_device(self, name: str) -> None:
        with NoSynchronization():
            assignment = ASSIGNERS[name](random_outputs(PYRAMID, 2), random_targets(2, 5, 128.0, 0), config())
        assert assignment.positive.any()


@pytest.mark.parametrize("operation", [torch.nonzero, lambda x: x.sum().item(), lambda x: x[x > 0]])
def test_synchronizing_operations_are_detected(operation: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(AssertionError, match="aten::"), NoSynchronization():
        operation(torch.ones(3))


def test_memory_is_bounded() -> None:
    """Every assigner uses less than 1 GiB for 16 images of 640×640 pixels with 300 objects each."""
    script = """
import re, sys
from dataclasses import replace
from pathlib import Path
import torch
from fcos.assigners import ASSIGNERS
from fcos.config import PAPER
from fcos.structures import Outputs
from fcos.locations import make_locations
from fcos.structures import Targets

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20

pyramid = make_locations([(640 // s, 640 // s) for s in (8, 16, 32, 64, 128)], [8, 16, 32, 64, 128])
count = len(pyramid.xy)
outputs = Outputs(torch.randn(16, count, 20), torch.rand(16, count, 4) * 60, None, pyramid)
corners = torch.rand(16, 300, 2) * 500
boxes = torch.cat([corners, corners + 5 + torch.rand(16, 300, 2) * 130], dim=-1)
batch = Targets(boxes, torch.randint(20, (16, 300)), torch.ones(16, 300, dtype=torch.bool))
before = peak()
for name, radius in (("fcos", 0.0), ("fcos", 8.0), ("atss", 1.5), ("task_aligned", 1.5)):
    ASSIGNERS[name](outputs, batch, replace(PAPER, assigner=name, center_sampling_radius=radius))
    print(name, radius, round(peak() - before, 3))
"""
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    lines = output.splitlines()
    assert len(lines) == 4
    assert float(lines[-1].split()[-1]) < 1.0, output
