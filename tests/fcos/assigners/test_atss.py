"""ATSS, compared with a slow implementation of the paper's algorithm 1, and worked out by hand."""

import math
import random
import statistics
from dataclasses import replace

import pytest
import torch

from fcos.assigners.atss import assign_atss
from fcos.config import PAPER
from fcos.locations import Locations, make_locations
from fcos.structures import Assignment, Outputs, make_targets

Box = list[float]


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def positives(pyramid: Locations, box: Box, count: int) -> dict[int, float]:
    """The positive locations of an object, and the IoU of their anchors with its box."""
    center = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    locations, candidates, start = pyramid.xy.tolist(), [], 0
    for cells in pyramid.counts:
        level = sorted(range(start, start + cells), key=lambda p: (math.dist(locations[p], center) ** 2, p))
        candidates += level[:count]
        start += cells
    ious = {}
    for p in candidates:
        (x, y), half = locations[p], 4 * pyramid.strides[p].item()
        ious[p] = iou([x - half, y - half, x + half, y + half], box)
    threshold = statistics.mean(ious.values()) + statistics.stdev(ious.values())
    return {
        p: value
        for p, value in ious.items()
        if value >= threshold and box[0] < locations[p][0] < box[2] and box[1] < locations[p][1] < box[3]
    }


def oracle(pyramid: Locations, boxes: list[Box], count: int) -> list[int | None]:
    """The index of the object that each location is assigned to; None: background."""
    indices: list[int | None] = [None] * len(pyramid.xy)
    best = [0.0] * len(indices)
    for index, box in enumerate(boxes):
        for p, value in positives(pyramid, box, count).items():
            if value > best[p]:
                indices[p], best[p] = index, value
    return indices


def assign(pyramid: Locations, images: list[list[Box]], count: int = 9) -> Assignment:
    boxes = [torch.tensor(image_boxes).view(-1, 4) for image_boxes in images]
    cells = len(pyramid.xy)
    outputs = Outputs(torch.zeros(len(images), cells, 1), torch.zeros(len(images), cells, 4), None, pyramid)
    targets = make_targets(boxes, [torch.arange(len(image_boxes)) for image_boxes in boxes])
    return assign_atss(outputs, targets, replace(PAPER, pretrained=False, atss_topk=count))


def assigned_indices(assignment: Assignment, image: int) -> list[int | None]:
    indices, positive = assignment.index[image].tolist(), assignment.positive[image].tolist()
    return [index if is_positive else None for index, is_positive in zip(indices, positive, strict=True)]


@pytest.mark.parametrize("mode", ["center", "corner", "torchvision"])
@pytest.mark.parametrize("count", [2, 9, 30])
def test_assignment_equals_the_oracles(mode: str, count: int) -> None:
    """Includes levels with fewer cells than candidates, and boxes whose center is outside the grid."""
    rng = random.Random(f"{mode} {count}")
    pyramid = make_locations([(9, 13), (5, 7), (2, 3), (1, 2)], [8, 16, 32, 64], mode=mode)  # type: ignore[arg-type]
    images = []
    for objects in (0, 1, 5, 9):
        # Quarters of pixels, so that float32 represents the squared distances exactly.
        corners = [(rng.randrange(-40, 400) / 4, rng.randrange(-40, 280) / 4) for _ in range(objects)]
        images.append([[x, y, x + rng.randrange(8, 360) / 4, y + rng.randrange(8, 300) / 4] for x, y in corners])
    assignment = assign(pyramid, images, count)
    expected = [oracle(pyramid, boxes, count) for boxes in images]
    assert [assigned_indices(assignment, image) for image in range(len(images))] == expected
    assert sum(index is not None for indices in expected for index in indices) > 8
    assert assignment.alignment is None


def test_by_hand() -> None:
    """One level of 2×2 cells of stride 16, anchors of 128 pixels, two candidates.

    The box (0, 0, 24, 24) contains (8, 8), where its IoU with the anchor (−56, −56, 72, 72) is 576/16384. The anchor of
    the second candidate, (24, 8), has the same IoU. So the standard deviation is 0, and only the first is inside.
    """
    assignment = assign(make_locations([(2, 2)], [16]), [[[0.0, 0.0, 24.0, 24.0]]], count=2)
    assert assignment.positive.tolist() == [[True, False, False, False]]
    assert assignment.ltrb[0, 0].tolist() == [8, 8, 16, 16]


def test_a_single_candidate_has_no_deviation() -> None:
    assignment = assign(make_locations([(2, 2)], [16]), [[[20.0, 20.0, 30.0, 30.0]]], count=1)
    assert assignment.positive.tolist() == [[False, False, False, True]]


def test_the_first_of_equally_near_cells_are_candidates() -> None:
    """All four cells have the same distance to (16, 16); two of them are candidates."""
    assignment = assign(make_locations([(2, 2)], [16]), [[[2.0, 2.0, 30.0, 30.0]]], count=2)
    assert assignment.positive.tolist() == [[True, True, False, False]]
