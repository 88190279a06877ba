import pytest
import torch
import torch.nn.functional as F
from fcos.assign import assign_fcos, targets

from fcos.boxes import boxes_from_ltrb
from fcos.criterion import Criterion
from fcos.detector import Outputs
from fcos.losses import centerness, iou_loss, sigmoid_focal_loss
from fcos.points import points

PYRAMID = points([(8, 8), (4, 4)], [8, 16])
BOXES = [torch.tensor([[4.0, 4.0, 40.0, 30.0], [20.0, 20.0, 60.0, 60.0]]), torch.zeros(0, 4)]
BATCH = targets(BOXES, [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64)])


def outputs(seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    count = len(PYRAMID.locations)
    return Outputs(
        logits=torch.randn(2, count, 3, generator=generator).requires_grad_(),
        ltrb=(torch.rand(2, count, 4, generator=generator) * 30).requires_grad_(),
        centerness=torch.randn(2, count, generator=generator).requires_grad_(),
        points=PYRAMID,
    )


def test_against_a_loop_over_locations() -> None:
    """Equation 2, one location at a time."""
    given = outputs()
    truth = assign_fcos(PYRAMID, BATCH, radius=1.5)
    classification = box = centre = weights = torch.zeros(())
    count = int(truth.positive.sum())
    for i in range(2):
        for p, location in enumerate(PYRAMID.locations):
            goal = torch.zeros(3)
            if truth.positive[i, p]:
                goal[truth.labels[i, p]] = 1
                central = centerness(truth.ltrb[i, p])
                pair = (boxes_from_ltrb(location, ltrb) for ltrb in (given.ltrb[i, p], truth.ltrb[i, p]))
                box = box + central * iou_loss(*pair)
                weights = weights + central
                centre = centre + F.binary_cross_entropy_with_logits(given.centerness[i, p], central)
            classification = classification + sigmoid_focal_loss(given.logits[i, p], goal).sum()
    losses = Criterion(box_loss="iou", radius=1.5)(given, BATCH)
    assert count > 4
    torch.testing.assert_close(losses.classification, classification / count)
    torch.testing.assert_close(losses.box, box / weights)
    torch.testing.assert_close(losses.centerness, centre / count)
    torch.testing.assert_close(losses.total, (classification + centre) / count + box / weights)
    assert losses.positives == count


def test_centerness_can_reach_its_floor_and_no_less() -> None:
    truth = assign_fcos(PYRAMID, BATCH, radius=1.5)
    perfect = Outputs(outputs().logits, outputs().ltrb, torch.logit(centerness(truth.ltrb), eps=1e-6), PYRAMID)
    losses = Criterion(box_loss="iou", radius=1.5)(perfect, BATCH)
    torch.testing.assert_close(losses.centerness, losses.centerness_floor, rtol=1e-4, atol=1e-4)
    assert Criterion(box_loss="iou", radius=1.5)(outputs(), BATCH).centerness > losses.centerness_floor


@pytest.mark.parametrize("box_loss", ["iou", "giou"])
def test_a_batch_without_objects_learns_background(box_loss: str) -> None:
    given = outputs()
    nothing = targets([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    losses = Criterion(box_loss=box_loss, radius=1.5)(given, nothing)
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert losses.classification > 0
    assert losses.box == 0
    assert losses.centerness == 0
    for tensor in (given.logits, given.ltrb, given.centerness):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_boxes_far_from_the_corner_lose_as_much_as_near_ones() -> None:
    """The box loss knows distances only: an object of a large image counts as one of a small image."""
    near = points([(1, 1)], [8])
    far = type(near)(near.locations + 1e6, near.strides, near.ranges, near.counts)
    ltrb = torch.tensor([[[1.25, 1.5, 1.0, 1.75]]])
    found = []
    for pyramid in (near, far):
        box = boxes_from_ltrb(pyramid.locations, torch.tensor([[2.0, 2.0, 2.0, 2.0]]))
        given = Outputs(torch.zeros(1, 1, 1), ltrb, torch.zeros(1, 1), pyramid)
        found.append(Criterion(box_loss="giou", radius=1.5)(given, targets([box], [torch.tensor([0])])).box)
    torch.testing.assert_close(found[0], found[1])


def test_normalisers_go_through_the_mean_over_processes() -> None:
    """Twice the positives elsewhere means half the loss here."""
    alone = Criterion(box_loss="iou", radius=1.5)(outputs(), BATCH)
    doubled = Criterion(box_loss="iou", radius=1.5, mean_over_processes=lambda value: 2 * value)(outputs(), BATCH)
    torch.testing.assert_close(2 * doubled.total, alone.total)
