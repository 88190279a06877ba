"""ATSS against an oracle in plain Python, by the words of algorithm 1."""

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
    """One object's positive locations, and the IoU of their anchors."""
    center = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    locations, candidates, start = pyramid.xy.tolist(), [], 0
    for cells in pyramid.counts:
        level = sorted(range(start, start + cells), key=lambda p: (math.dist(locations[p], center) ** 2, p))
        candidates += level[:count]
        start += cells
    overlaps = {}
    for p in candidates:
        (x, y), half = locations[p], 4 * pyramid.strides[p].item()
        overlaps[p] = iou([x - half, y - half, x + half, y + half], box)
    threshold = statistics.mean(overlaps.values()) + statistics.stdev(overlaps.values())
    return {
        p: overlap
        for p, overlap in overlaps.items()
        if overlap >= threshold and box[0] < locations[p][0] < box[2] and box[1] < locations[p][1] < box[3]
    }


def oracle(pyramid: Locations, boxes: list[Box], count: int) -> list[int | None]:
    chosen: list[int | None] = [None] * len(pyramid.xy)
    best = [0.0] * len(chosen)
    for index, box in enumerate(boxes):
        for p, overlap in positives(pyramid, box, count).items():
            if overlap > best[p]:
                chosen[p], best[p] = index, overlap
    return chosen


def assign(pyramid: Locations, images: list[list[Box]], count: int = 9) -> Assignment:
    each = [torch.tensor(one).view(-1, 4) for one in images]
    cells = len(pyramid.xy)
    given = Outputs(torch.zeros(len(images), cells, 1), torch.zeros(len(images), cells, 4), None, pyramid)
    batch = make_targets(each, [torch.arange(len(one)) for one in each])
    return assign_atss(given, batch, replace(PAPER, pretrained=False, atss_topk=count))


def learned(made: Assignment, image: int) -> list[int | None]:
    return [
        index if positive else None
        for index, positive in zip(made.index[image].tolist(), made.positive[image].tolist(), strict=True)
    ]


@pytest.mark.parametrize("kind", ["center", "corner", "torchvision"])
@pytest.mark.parametrize("count", [2, 9, 30])
def test_assignment_is_the_oracles(kind: str, count: int) -> None:
    """Also on levels with fewer cells than candidates, and for boxes whose center is off the grid."""
    draw = random.Random(f"{kind} {count}")
    pyramid = make_locations([(9, 13), (5, 7), (2, 3), (1, 2)], [8, 16, 32, 64], mode=kind)  # type: ignore[arg-type]
    images = []
    for objects in (0, 1, 5, 9):
        # Odd quarters of pixels: no two cells are equally near, and float32 holds the distances' squares.
        corners = [(draw.randrange(-40, 400) / 4, draw.randrange(-40, 280) / 4) for _ in range(objects)]
        images.append([[x, y, x + draw.randrange(8, 360) / 4, y + draw.randrange(8, 300) / 4] for x, y in corners])
    made = assign(pyramid, images, count)
    expected = [oracle(pyramid, boxes, count) for boxes in images]
    assert [learned(made, image) for image in range(len(images))] == expected
    assert sum(one is not None for each in expected for one in each) > 8
    assert made.alignment is None


def test_by_hand() -> None:
    """One level of 2×2 cells of stride 16, anchors of 128 pixels, two candidates.

    The box (0, 0, 24, 24) lies around (8, 8), and its IoU with the anchor (−56, −56, 72, 72) there is 576/16384. The
    second candidate, (24, 8), looks at the same share; so the deviation is 0, and only the first is inside.
    """
    made = assign(make_locations([(2, 2)], [16]), [[[0.0, 0.0, 24.0, 24.0]]], count=2)
    assert made.positive.tolist() == [[True, False, False, False]]
    assert made.ltrb[0, 0].tolist() == [8, 8, 16, 16]


def test_a_single_candidate_has_no_deviation() -> None:
    made = assign(make_locations([(2, 2)], [16]), [[[20.0, 20.0, 30.0, 30.0]]], count=1)
    assert made.positive.tolist() == [[False, False, False, True]]


def test_of_equally_near_cells_the_first_are_candidates() -> None:
    """All four cells are equally near to (16, 16); two are looked at."""
    made = assign(make_locations([(2, 2)], [16]), [[[2.0, 2.0, 30.0, 30.0]]], count=2)
    assert made.positive.tolist() == [[True, True, False, False]]
