"""FCOS assignment against an oracle that a person can check by eye; and what holds for every assigner."""

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
from tests.support.device_sync import NoWaiting

PYRAMID = make_locations([(16, 16), (8, 8), (4, 4)], [8, 16, 32])  # of an image of 128×128


def config(**fields: object) -> ModelConfig:
    return replace(PAPER, pretrained=False, levels=(3, 4, 5), **fields)  # type: ignore[arg-type]


def outputs(pyramid: Locations, images: int, classes: int = 6, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    count = len(pyramid.xy)
    return Outputs(
        logits=torch.randn(images, count, classes, generator=generator),
        ltrb=torch.rand(images, count, 4, generator=generator) * 40,
        quality=None,
        locations=pyramid,
    )


def oracle(pyramid: Locations, boxes: list[list[float]], radius: float) -> list[int | None]:
    """The object that each location learns, by the paper's words."""
    chosen: list[int | None] = []
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
        chosen.append(best)
    return chosen


def batch(images: list[list[list[float]]]) -> Targets:
    """Each image's boxes, the label being the box's place in its image."""
    each = [torch.tensor(one).view(-1, 4) for one in images]
    return make_targets(each, [torch.arange(len(one)) for one in each])


def assign(images: list[list[list[float]]], radius: float, pyramid: Locations = PYRAMID) -> Assignment:
    return assign_fcos(outputs(pyramid, len(images)), batch(images), config(center_sampling_radius=radius))


def random_batch(images: int, objects: int, side: float, seed: int) -> Targets:
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
def test_assignment_is_the_oracles(images: list[list[list[float]]], radius: float) -> None:
    made = assign(images, radius)
    for index, boxes in enumerate(images):
        expected = oracle(PYRAMID, boxes, radius)
        assert made.positive[index].tolist() == [one is not None for one in expected]
        found = [
            label for label, positive in zip(made.labels[index].tolist(), made.positive[index], strict=True) if positive
        ]
        assert found == [one for one in expected if one is not None]


@pytest.mark.parametrize("kind", ["center", "corner", "torchvision"])
@pytest.mark.parametrize("radius", [0.3, 1.0, 1.5, 2.7, 40.0])
def test_looking_near_centers_changes_nothing(kind: str, radius: float) -> None:
    """Bit for bit, also where torchvision's steps aren't the strides, and where a level has a cell or two."""
    shapes = [(23, 37), (12, 19), (6, 10), (3, 5), (2, 3)]
    for ends in (None, [33.3, 50.1, 111.7, 200.0]):
        pyramid = make_locations(shapes, [8, 16, 32, 64, 128], mode=kind, ends=ends)  # type: ignore[arg-type]
        for seed in range(4):
            made = random_batch(3, 25, 296.0, seed)
            made.boxes[0] = made.boxes[0].round()  # many ties, and centers on cells' very places
            index, positive = match_near_centers(pyramid, made, radius)
            expected, expected_positive = match_everywhere(pyramid, made, radius)
            assert positive.any()
            assert torch.equal(positive, expected_positive)
            assert torch.equal(index, expected)


def test_by_hand() -> None:
    """A box of 16×16 around (24, 24): with radius 1.5·8 = 12 the four locations within 12 pixels of its center."""
    made = assign([[[16.0, 16.0, 32.0, 32.0]]], radius=1.5)
    assert PYRAMID.xy[made.positive[0]].tolist() == [[20, 20], [28, 20], [20, 28], [28, 28]]
    assert made.ltrb[0, made.positive[0]].tolist() == [[4, 4, 12, 12], [12, 4, 4, 12], [4, 12, 12, 4], [12, 12, 4, 4]]


@pytest.mark.parametrize("radius", [0.0, 1.5])
def test_the_smaller_of_two_boxes_wins_even_by_a_hair(radius: float) -> None:
    """Areas that 1e8 − area can't tell apart in float32."""
    made = assign([[[0.0, 0.0, 40.0, 40.25], [0.0, 0.0, 40.0, 40.0]]], radius)
    assert set(made.labels[0, made.positive[0]].tolist()) == {1}


def test_ranges_move_an_object_to_another_level() -> None:
    """A box of side 40: with the first level for sizes up to 20, the second has it."""
    for ends, stride in ((None, 8), ([20.0, 64.0], 16)):
        pyramid = make_locations([(16, 16), (8, 8), (4, 4)], [8, 16, 32], ends=ends)
        made = assign([[[44.0, 44.0, 84.0, 84.0]]], radius=1.0, pyramid=pyramid)
        assert set(pyramid.strides[made.positive[0]].tolist()) == {stride}


def test_no_images() -> None:
    assert make_targets([], []).boxes.shape == (0, 1, 4)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = random_batch(5, 9, 128.0, 0)
    whole = match_everywhere(PYRAMID, made, 0.0)
    monkeypatch.setattr(fcos.assigners.fcos, "_CHUNK", 1)
    for tensor, expected in zip(match_everywhere(PYRAMID, made, 0.0), whole, strict=True):
        assert torch.equal(tensor, expected)


def test_the_least_bid_wins_and_of_equal_ones_the_first() -> None:
    """Three objects, two bids each, four locations: 0 is contested, 1 is a tie, 3 has infinite bids alone."""
    cells = torch.tensor([[[0, 1], [1, 0], [0, 3]]])
    costs = torch.tensor([[[5.0, 2.0], [2.0, 4.0], [math.inf, math.inf]]])
    index, positive = resolve(cells, costs, 4)
    assert index.tolist() == [[1, 0, 0, 0]]
    assert positive.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("name", list(ASSIGNERS))
class TestEveryAssigner:
    def test_images_without_objects_are_all_background(self, name: str) -> None:
        given_ = batch([[], [[8.0, 8.0, 40.0, 40.0]], []])
        made = ASSIGNERS[name](outputs(PYRAMID, 3), given_, config())
        assert made.positive.any(dim=1).tolist() == [False, True, False]
        assert (made.ltrb[0] == 1).all()

    def test_padding_is_nobody(self, name: str) -> None:
        """What stands in the padding makes no difference."""
        given_ = batch([[[8.0, 8.0, 40.0, 40.0]], [[8.0, 8.0, 40.0, 40.0], [30.0, 30.0, 90.0, 100.0]]])
        other = Targets(given_.boxes.clone(), given_.labels, given_.valid)
        other.boxes[0, 1] = torch.tensor([20.0, 20.0, 70.0, 70.0])
        a, b = (ASSIGNERS[name](outputs(PYRAMID, 2), each, config()) for each in (given_, other))
        assert torch.equal(a.positive, b.positive)
        assert torch.equal(a.ltrb, b.ltrb)

    def test_of_identical_boxes_the_first_wins(self, name: str) -> None:
        # Of one class, so that task alignment can't prefer either.
        one = torch.tensor([[20.0, 20.0, 60.0, 60.0]] * 3)
        given_ = make_targets([one], [torch.zeros(3, dtype=torch.int64)])
        made = ASSIGNERS[name](outputs(PYRAMID, 1), given_, config())
        assert made.positive.any()
        assert (made.index[made.positive] == 0).all()

    def test_an_object_outside_all_locations_is_learned_nowhere(self, name: str) -> None:
        made = ASSIGNERS[name](outputs(PYRAMID, 1), batch([[[300.0, 300.0, 340.0, 340.0], [5, 5, 7, 7]]]), config())
        assert not made.positive.any()

    def test_positive_locations_lie_inside_their_objects(self, name: str) -> None:
        given_ = random_batch(3, 12, 128.0, 5)
        made = ASSIGNERS[name](outputs(PYRAMID, 3), given_, config())
        assert made.positive.sum() > 10
        assert (made.ltrb > 0).all()
        boxes = torch.cat([PYRAMID.xy - made.ltrb[..., :2], PYRAMID.xy + made.ltrb[..., 2:]], dim=-1)
        expected = torch.stack([one[index] for one, index in zip(given_.boxes, made.index, strict=True)])
        torch.testing.assert_close(boxes[made.positive], expected[made.positive])

    def test_nothing_waits_for_a_device(self, name: str) -> None:
        with NoWaiting():
            made = ASSIGNERS[name](outputs(PYRAMID, 2), random_batch(2, 5, 128.0, 0), config())
        assert made.positive.any()


@pytest.mark.parametrize("wait", [torch.nonzero, lambda x: x.sum().item(), lambda x: x[x > 0]])
def test_waiting_would_be_seen(wait: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(AssertionError, match="aten::"), NoWaiting():
        wait(torch.ones(3))


def test_memory_is_bounded() -> None:
    """640×640 pixels, 16 images of 300 objects each: under 1 GiB more, whatever the assigner."""
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
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    lines = told.splitlines()
    assert len(lines) == 4
    assert float(lines[-1].split()[-1]) < 1.0, told
