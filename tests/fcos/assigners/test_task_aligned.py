"""Task-aligned assignment against an oracle in plain Python, by the words of TOOD's section 3.2."""

import math
from dataclasses import replace

import pytest
import torch

import fcos.assigners.task_aligned
from fcos.assigners.task_aligned import assign_task_aligned
from fcos.config import PAPER
from fcos.locations import make_locations
from fcos.structures import Outputs, Targets, make_targets

PYRAMID = make_locations([(6, 7), (3, 4)], [8, 16])
CONFIG = replace(PAPER, pretrained=False, assigner="task_aligned", task_aligned_topk=5)


def outputs(images: int = 2, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    count = len(PYRAMID.xy)
    return Outputs(
        logits=torch.randn(images, count, 4, generator=generator).requires_grad_(),
        ltrb=(torch.rand(images, count, 4, generator=generator) * 25).requires_grad_(),
        quality=None,
        locations=PYRAMID,
    )


def random_targets(images: int = 2, seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(images, 6, 2, generator=generator) * 30
    boxes = torch.cat([corners, corners + 4 + torch.rand(images, 6, 2, generator=generator) * 25], dim=-1)
    boxes[0, 3] = boxes[0, 1]  # the same box twice, with another label or not
    valid = torch.ones(images, 6, dtype=torch.bool)
    valid[-1, 4:] = False
    return Targets(boxes, torch.randint(4, (images, 6), generator=generator), valid)


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def oracle(given: Outputs, batch: Targets, image: int, alpha: float, beta: float) -> list[tuple[int | None, float]]:
    """Each location's object and alignment."""
    locations = PYRAMID.xy.tolist()
    taken: dict[int, tuple[int, float, float]] = {}  # location: object, t, u
    for index, (box, label) in enumerate(zip(batch.boxes[image].tolist(), batch.labels[image].tolist(), strict=True)):
        bids = []
        for p, (x, y) in enumerate(locations):
            left, top, right, bottom = given.ltrb[image, p].tolist()
            u = iou([x - left, y - top, x + right, y + bottom], box)
            t = (1 / (1 + math.exp(-given.logits[image, p, label].item()))) ** alpha * u**beta
            if batch.valid[image, index] and box[0] < x < box[2] and box[1] < y < box[3]:
                bids.append((t, u, p))
        for t, u, p in sorted(bids, reverse=True)[: CONFIG.task_aligned_topk]:
            if p not in taken or u > taken[p][2]:
                taken[p] = index, t, u
    made: list[tuple[int | None, float]] = []
    for p in range(len(locations)):
        if p not in taken:
            made.append((None, 0.0))
            continue
        index, t, _ = taken[p]
        own = [one for one in taken.values() if one[0] == index]
        made.append((index, t / max(one[1] for one in own) * max(one[2] for one in own)))
    return made


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 6.0), (0.5, 2.0)])
@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_the_oracles(alpha: float, beta: float, seed: int) -> None:
    given, batch = outputs(seed=seed), random_targets(seed=seed)
    made = assign_task_aligned(given, batch, replace(CONFIG, task_aligned_alpha=alpha, task_aligned_beta=beta))
    assert made.alignment is not None
    for image in range(2):
        expected = oracle(given, batch, image, alpha, beta)
        assert made.positive[image].tolist() == [index is not None for index, _ in expected]
        found = made.index[image].where(made.positive[image], 0).tolist()
        assert found == [index or 0 for index, _ in expected]
        assert made.alignment[image].tolist() == pytest.approx([t for _, t in expected], rel=1e-4, abs=1e-7)
    assert made.positive.sum() > 15


def test_the_best_aligned_location_of_an_object_has_its_largest_iou() -> None:
    """Predicted boxes of IoU ½ and ¼, equal probabilities: with β = 2, t is as 4 to 1, so alignment is ½ and ⅛."""
    pyramid = make_locations([(1, 2)], [8])
    ltrb = torch.tensor([[[4.0, 4.0, 4.0, 4.0], [4.0, 4.0, 0.0, 4.0]]])
    box = torch.tensor([[0.0, 0.0, 16.0, 8.0]])
    given = Outputs(torch.zeros(1, 2, 1), ltrb, None, pyramid)
    batch = make_targets([box], [torch.tensor([0])])
    made = assign_task_aligned(given, batch, replace(CONFIG, task_aligned_beta=2.0))
    assert made.positive.tolist() == [[True, True]]
    assert made.alignment is not None
    assert made.alignment.tolist() == [[0.5, 0.125]]


def test_nothing_flows_back() -> None:
    made = assign_task_aligned(outputs(), random_targets(), CONFIG)
    assert made.alignment is not None
    assert not made.alignment.requires_grad


def test_predictions_without_area_leave_numbers_finite() -> None:
    given = Outputs(outputs().logits, torch.zeros_like(outputs().ltrb), None, PYRAMID)
    made = assign_task_aligned(given, random_targets(), CONFIG)
    assert made.positive.any()
    assert made.alignment is not None
    assert (made.alignment == 0).all()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = assign_task_aligned(outputs(), random_targets(), CONFIG)
    monkeypatch.setattr(fcos.assigners.task_aligned, "_CHUNK", 1)
    pieces = assign_task_aligned(outputs(), random_targets(), CONFIG)
    for name, tensor in vars(whole).items():
        assert torch.equal(tensor, getattr(pieces, name)), name
