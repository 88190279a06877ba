"""Task-aligned assignment, compared with a slow implementation of TOOD's section 3.2, and worked out by hand."""

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


def random_outputs(images: int = 2, seed: int = 0) -> Outputs:
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
    boxes[0, 3] = boxes[0, 1]  # the same box twice, with the same label or two labels
    valid = torch.ones(images, 6, dtype=torch.bool)
    valid[-1, 4:] = False
    return Targets(boxes, torch.randint(4, (images, 6), generator=generator), valid)


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def oracle(outputs: Outputs, targets: Targets, image: int, alpha: float, beta: float) -> list[tuple[int | None, float]]:
    """The object and the alignment of each location."""
    locations = PYRAMID.xy.tolist()
    assigned: dict[int, tuple[int, float, float]] = {}  # location: object, t, u
    boxes_and_labels = zip(targets.boxes[image].tolist(), targets.labels[image].tolist(), strict=True)
    for index, (box, label) in enumerate(boxes_and_labels):
        candidates = []
        for p, (x, y) in enumerate(locations):
            left, top, right, bottom = outputs.ltrb[image, p].tolist()
            u = iou([x - left, y - top, x + right, y + bottom], box)
            t = (1 / (1 + math.exp(-outputs.logits[image, p, label].item()))) ** alpha * u**beta
            if targets.valid[image, index] and box[0] < x < box[2] and box[1] < y < box[3]:
                candidates.append((t, u, p))
        for t, u, p in sorted(candidates, reverse=True)[: CONFIG.task_aligned_topk]:
            if p not in assigned or u > assigned[p][2]:
                assigned[p] = index, t, u
    result: list[tuple[int | None, float]] = []
    for p in range(len(locations)):
        if p not in assigned:
            result.append((None, 0.0))
            continue
        index, t, _ = assigned[p]
        of_object = [(t, u) for assigned_index, t, u in assigned.values() if assigned_index == index]
        result.append((index, t / max(t for t, _ in of_object) * max(u for _, u in of_object)))
    return result


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 6.0), (0.5, 2.0)])
@pytest.mark.parametrize("seed", range(4))
def test_assignment_equals_the_oracles(alpha: float, beta: float, seed: int) -> None:
    outputs, targets = random_outputs(seed=seed), random_targets(seed=seed)
    config = replace(CONFIG, task_aligned_alpha=alpha, task_aligned_beta=beta)
    assignment = assign_task_aligned(outputs, targets, config)
    assert assignment.alignment is not None
    for image in range(2):
        expected = oracle(outputs, targets, image, alpha, beta)
        positive = assignment.positive[image]
        assert positive.tolist() == [index is not None for index, _ in expected]
        assert assignment.index[image].where(positive, 0).tolist() == [index or 0 for index, _ in expected]
        alignments = [alignment for _, alignment in expected]
        assert assignment.alignment[image].tolist() == pytest.approx(alignments, rel=1e-4, abs=1e-7)
    assert assignment.positive.sum() > 15


def test_the_largest_alignment_of_an_object_is_its_largest_iou() -> None:
    """IoUs of ½ and ¼, equal probabilities: for β = 2, t differs by a factor of 4, so the alignments are ½ and ⅛."""
    pyramid = make_locations([(1, 2)], [8])
    ltrb = torch.tensor([[[4.0, 4.0, 4.0, 4.0], [4.0, 4.0, 0.0, 4.0]]])
    box = torch.tensor([[0.0, 0.0, 16.0, 8.0]])
    outputs = Outputs(torch.zeros(1, 2, 1), ltrb, None, pyramid)
    targets = make_targets([box], [torch.tensor([0])])
    assignment = assign_task_aligned(outputs, targets, replace(CONFIG, task_aligned_beta=2.0))
    assert assignment.positive.tolist() == [[True, True]]
    assert assignment.alignment is not None
    assert assignment.alignment.tolist() == [[0.5, 0.125]]


def test_alignment_has_no_gradient() -> None:
    assignment = assign_task_aligned(random_outputs(), random_targets(), CONFIG)
    assert assignment.alignment is not None
    assert not assignment.alignment.requires_grad


def test_predictions_without_area_give_finite_alignment() -> None:
    outputs = random_outputs()
    outputs = replace(outputs, ltrb=torch.zeros_like(outputs.ltrb))
    assignment = assign_task_aligned(outputs, random_targets(), CONFIG)
    assert assignment.positive.any()
    assert assignment.alignment is not None
    assert (assignment.alignment == 0).all()


def test_the_size_of_chunks_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = assign_task_aligned(random_outputs(), random_targets(), CONFIG)
    monkeypatch.setattr(fcos.assigners.task_aligned, "_CHUNK", 1)
    assignment = assign_task_aligned(random_outputs(), random_targets(), CONFIG)
    for name, tensor in vars(expected).items():
        assert torch.equal(tensor, getattr(assignment, name)), name
