"""Which differences between an exported file and its detector are rounding."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fcos.postprocess import Detections
from pipeline.export import parity


@pytest.mark.parametrize(
    ("detections", "unmatched", "moved", "holds"),
    [
        *((0, 0, 0, False), (50, 1, 0, True), (50, 2, 0, False), (300, 3, 0, True), (300, 4, 0, False)),
        *((50, 0, 1, False), (300, 0, 3, True), (300, 0, 4, False), (300, 2, 1, True), (300, 2, 2, False)),
    ],
)
def test_rounding_may_choose_single_other_boxes(detections: int, unmatched: int, moved: int, holds: bool) -> None:
    found = parity.Parity(16, detections, unmatched, score_difference=1e-5, iou=0.99, moved=moved)
    assert found.holds == holds
    for ap, is_close in (((0.5, 0.5004), holds), ((0.5, 0.5006), False)):
        assert replace(found, ap=ap).holds == is_close


def test_thin_boxes_may_differ_in_iou() -> None:
    def at(right: float) -> Callable[[torch.Tensor], Detections]:
        boxes = torch.tensor([[0.0, 0.0, right, 100.0]])
        return lambda _: Detections(boxes, torch.tensor([0.5]), torch.tensor([0]))

    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    for rights, iou, holds in (((0.5, 0.502), 0.996, True), ((5.0, 5.02), 0.996, False), ((50, 50.02), 0.9996, True)):
        found = parity.compare([image], at(rights[0]), at(rights[1]))
        assert found.iou == pytest.approx(iou if holds else 1, abs=1e-4)
        assert (found.moved, found.holds) == (not holds, holds)


def test_another_one_of_two_equally_good_boxes() -> None:
    """Of 100 boxes, another one remains in one place, with an IoU of 0.8 and another score: 1 % may differ."""
    boxes = torch.tensor([[30.0 * index, 0, 30 * index + 20, 20] for index in range(100)])
    scores, labels = torch.linspace(0.9, 0.1, 100), torch.zeros(100, dtype=torch.long)
    others, other_scores = boxes.clone(), scores.clone()
    others[7, 2] = boxes[7, 0] + 25
    other_scores[7] -= 0.01
    ours, theirs = Detections(boxes, scores, labels), Detections(others, other_scores, labels)
    found = parity.compare([torch.zeros(3, 1, 1)], lambda _: ours, lambda _: theirs)
    assert found == parity.Parity(1, 100, unmatched=0, score_difference=0.0, iou=1.0, moved=1)
    assert found.holds
    assert replace(found, ap=(0.5449, 0.54492)).describe() == (
        "1 image, 100 detections: 0 without counterpart, 1 with another box, scores differ by at most 0, IoU at least "
        "1.00000, AP at score threshold 0: 0.5449, the detector's 0.5449"
    )
    others[8, 2] = boxes[8, 0] + 25
    assert not parity.compare([torch.zeros(3, 1, 1)], lambda _: ours, lambda _: theirs).holds
