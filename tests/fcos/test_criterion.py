import itertools
import runpy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fcos.assigners import ASSIGNERS
from fcos.config import PAPER, LossWeights, ModelConfig
from fcos.criterion import Criterion
from fcos.locations import make_locations
from fcos.losses import BOX_LOSSES, CLASSIFICATION_LOSSES, centerness
from fcos.losses.box import giou_loss, iou_loss, l1_loss
from fcos.losses.classification import quality_focal_loss, sigmoid_focal_loss
from fcos.ops.boxes import aligned_iou, boxes_from_ltrb
from fcos.structures import Outputs, make_targets
from tests.support.device_sync import NoSynchronization
from tests.support.paths import PROJECT

CONFIG = replace(PAPER, pretrained=False, levels=(3, 4))
PYRAMID = make_locations([(8, 8), (4, 4)], [8, 16])
BOXES = [torch.tensor([[4.0, 4.0, 40.0, 30.0], [20.0, 20.0, 60.0, 60.0]]), torch.zeros(0, 4)]
BATCH = make_targets(BOXES, [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64)])
NOTHING = make_targets([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
PARTS = ("classification", "box", "quality", "quality_floor")


def outputs(seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    count = len(PYRAMID.xy)
    return Outputs(
        logits=torch.randn(2, count, 3, generator=generator).requires_grad_(),
        ltrb=(torch.rand(2, count, 4, generator=generator) * 30).requires_grad_(),
        quality=torch.randn(2, count, generator=generator).requires_grad_(),
        locations=PYRAMID,
    )


def leaves(given: Outputs) -> list[Tensor]:
    return [tensor for tensor in (given.logits, given.ltrb, given.quality) if tensor is not None]


def test_against_a_loop_over_locations() -> None:
    """Equation 2, one location at a time."""
    given = outputs()
    truth = ASSIGNERS["fcos"](given, BATCH, CONFIG)
    classification = box = center = weights = torch.zeros(())
    count = int(truth.positive.sum())
    assert given.quality is not None
    for i in range(2):
        for p, location in enumerate(PYRAMID.xy):
            goal = torch.zeros(3)
            if truth.positive[i, p]:
                goal[truth.labels[i, p]] = 1
                central = centerness(truth.ltrb[i, p])
                pair = (boxes_from_ltrb(location, ltrb) for ltrb in (given.ltrb[i, p], truth.ltrb[i, p]))
                box = box + central * iou_loss(*pair)
                weights = weights + central
                center = center + F.binary_cross_entropy_with_logits(given.quality[i, p], central)
            classification = classification + sigmoid_focal_loss(given.logits[i, p], goal, alpha=0.25, gamma=2.0).sum()
    losses = Criterion(CONFIG, box_loss="iou")(given, BATCH)
    assert count > 4
    torch.testing.assert_close(losses.classification, classification / count)
    torch.testing.assert_close(losses.box, box / weights)
    torch.testing.assert_close(losses.quality, center / count)
    torch.testing.assert_close(losses.total, (classification + center) / count + box / weights)
    assert losses.positives == count


def test_soft_targets_and_iou_quality_against_a_loop_over_locations() -> None:
    """Quality focal loss, box loss weighted by the IoU, an IoU branch with l1: all of the predicted box's IoU."""
    config = replace(
        CONFIG, classification_loss="quality_focal", box_loss_weighting="iou", quality="iou", quality_loss="l1"
    )
    given = outputs()
    truth = ASSIGNERS["fcos"](given, BATCH, config)
    classification = box = quality = weights = torch.zeros(())
    count = int(truth.positive.sum())
    assert given.quality is not None
    for i in range(2):
        for p, (location, stride) in enumerate(zip(PYRAMID.xy, PYRAMID.strides, strict=True)):
            goal = torch.zeros(3)
            if truth.positive[i, p]:
                pair = [boxes_from_ltrb(location, ltrb) for ltrb in (given.ltrb[i, p], truth.ltrb[i, p])]
                overlap = aligned_iou(*pair)[0].detach()
                goal[truth.labels[i, p]] = overlap
                box = box + overlap * l1_loss(pair[0] / stride, pair[1] / stride)
                weights = weights + overlap
                quality = quality + (given.quality[i, p].sigmoid() - overlap).abs()
            classification = classification + quality_focal_loss(given.logits[i, p], goal, alpha=0.25, gamma=2.0).sum()
    losses = Criterion(config, box_loss="l1")(given, BATCH)
    expected = {"classification": classification / count, "box": box / weights, "quality": quality / count}
    for name, value in expected.items():
        torch.testing.assert_close(getattr(losses, name), value)
    assert losses.quality_floor == 0
    for found, wanted in zip(
        torch.autograd.grad(losses.total, leaves(given)),
        torch.autograd.grad(sum(expected.values(), torch.zeros(())), leaves(given)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_alignment_is_the_soft_target_where_there_is_one() -> None:
    config = replace(CONFIG, classification_loss="quality_focal", assigner="task_aligned")
    given = outputs()
    truth = ASSIGNERS["task_aligned"](given, BATCH, config)
    assert truth.alignment is not None
    goals = torch.zeros_like(given.logits).scatter(-1, truth.labels[..., None], truth.alignment[..., None])
    expected = quality_focal_loss(given.logits, goals, alpha=0.25, gamma=2.0).sum() / truth.positive.sum()
    torch.testing.assert_close(Criterion(config, box_loss="giou")(given, BATCH).classification, expected)


def test_unweighted_box_loss_is_the_mean_over_positives() -> None:
    given = outputs()
    truth = ASSIGNERS["fcos"](given, BATCH, CONFIG)
    pair = [boxes_from_ltrb(PYRAMID.xy, ltrb)[truth.positive] for ltrb in (given.ltrb, truth.ltrb)]
    losses = Criterion(replace(CONFIG, box_loss_weighting="none"), box_loss="giou")(given, BATCH)
    torch.testing.assert_close(losses.box, giou_loss(*pair).mean())


def test_without_a_quality_branch_its_part_is_nothing() -> None:
    given = outputs()
    bare = Outputs(given.logits, given.ltrb, None, PYRAMID)
    losses = Criterion(replace(CONFIG, quality="none"), box_loss="iou")(bare, BATCH)
    assert losses.quality == losses.quality_floor == 0
    torch.testing.assert_close(losses.total, losses.classification + losses.box)
    losses.total.backward()  # type: ignore[no-untyped-call]


def test_weights_multiply_each_part() -> None:
    weights = LossWeights(classification=2.0, box=3.0, quality=5.0)
    plain = Criterion(CONFIG, box_loss="iou")(outputs(), BATCH)
    weighted = Criterion(replace(CONFIG, loss_weights=weights), box_loss="iou")(outputs(), BATCH)
    for name, factor in zip(PARTS, (2, 3, 5, 5), strict=True):
        torch.testing.assert_close(getattr(weighted, name), factor * getattr(plain, name))
    torch.testing.assert_close(weighted.total, 2 * plain.classification + 3 * plain.box + 5 * plain.quality)
    assert set(plain.named()) == {"total", *PARTS, "positives"}


def test_centerness_can_reach_its_floor_and_no_less() -> None:
    truth = ASSIGNERS["fcos"](outputs(), BATCH, CONFIG)
    perfect = Outputs(outputs().logits, outputs().ltrb, torch.logit(centerness(truth.ltrb), eps=1e-6), PYRAMID)
    losses = Criterion(CONFIG, box_loss="iou")(perfect, BATCH)
    torch.testing.assert_close(losses.quality, losses.quality_floor, rtol=1e-4, atol=1e-4)
    assert Criterion(CONFIG, box_loss="iou")(outputs(), BATCH).quality > losses.quality_floor


@pytest.mark.parametrize("box_loss", list(BOX_LOSSES))
@pytest.mark.parametrize("box_loss_weighting", ["centerness", "iou", "none"])
def test_a_batch_without_objects_learns_background(box_loss: str, box_loss_weighting: str) -> None:
    given = outputs()
    losses = Criterion(replace(CONFIG, box_loss_weighting=box_loss_weighting), box_loss=box_loss)(given, NOTHING)  # type: ignore[arg-type]
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert losses.classification > 0
    assert losses.box == 0
    assert losses.quality == 0
    for tensor in leaves(given):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("box_loss", list(BOX_LOSSES))
def test_boxes_that_mean_nothing_do_no_harm(box_loss: str) -> None:
    """Infinite where nothing is to be learned, of no size where an object is."""
    given = outputs()
    truth = ASSIGNERS["fcos"](given, BATCH, CONFIG)
    ltrb = torch.where(truth.positive[..., None], 0.0, torch.inf).expand(-1, -1, 4).clone().requires_grad_()
    config = replace(CONFIG, classification_loss="varifocal", box_loss_weighting="iou", quality="iou")
    losses = Criterion(config, box_loss=box_loss)(Outputs(given.logits, ltrb, given.quality, PYRAMID), BATCH)
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert all(value.isfinite() for value in losses.named().values())
    for tensor in (given.logits, ltrb, given.quality):
        assert tensor is not None
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def every_config() -> list[ModelConfig]:
    return [
        replace(CONFIG, assigner=assigner, classification_loss=loss, box_loss_weighting=weight, quality=quality)  # type: ignore[arg-type]
        for (assigner, loss), (weight, quality) in itertools.product(
            itertools.product(ASSIGNERS, CLASSIFICATION_LOSSES),
            [("centerness", "centerness"), ("iou", "iou"), ("none", "none")],
        )
    ]


@pytest.mark.parametrize("config", every_config(), ids=lambda c: f"{c.assigner}-{c.classification_loss}-{c.quality}")
def test_half_precision_gives_float32_losses(config: ModelConfig) -> None:
    """In every combination; and nothing of it waits for a device, forward or backward."""
    given = outputs()
    half = Outputs(given.logits.bfloat16(), given.ltrb, leaves(given)[2].bfloat16(), PYRAMID)
    half = replace(half, quality=None) if config.quality == "none" else half
    wide = Outputs(half.logits.float(), half.ltrb, None if half.quality is None else half.quality.float(), PYRAMID)
    with torch.autocast("cpu"), NoSynchronization():
        losses = Criterion(config, box_loss="giou")(half, BATCH)
    with NoSynchronization():
        losses.total.backward()  # type: ignore[no-untyped-call]
    expected = Criterion(config, box_loss="giou")(wide, BATCH)
    for name, value in losses.named().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected.named()[name], rtol=1e-6, atol=1e-6)
    assert given.ltrb.grad is not None
    assert given.ltrb.grad.isfinite().all()


def test_boxes_far_from_the_corner_lose_as_much_as_near_ones() -> None:
    """The box loss knows distances only: an object of a large image counts as one of a small image."""
    near = make_locations([(1, 1)], [8])
    far = replace(near, xy=near.xy + 2**20, grids=(replace(near.grids[0], first=near.grids[0].first + 2**20),))
    ltrb = torch.tensor([[[1.25, 1.5, 1.0, 1.75]]])
    found = []
    for pyramid in (near, far):
        box = boxes_from_ltrb(pyramid.xy, torch.tensor([[2.0, 2.0, 2.0, 2.0]]))
        given = Outputs(torch.zeros(1, 1, 1), ltrb, torch.zeros(1, 1), pyramid)
        found.append(Criterion(CONFIG, box_loss="giou")(given, make_targets([box], [torch.tensor([0])])).box)
    assert found[0] > 0
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("box_loss_weighting", ["centerness", "iou", "none"])
def test_normalizers_go_through_the_mean_over_processes(box_loss_weighting: str) -> None:
    """Twice the positives elsewhere means half the loss here."""
    config = replace(CONFIG, box_loss_weighting=box_loss_weighting)  # type: ignore[arg-type]
    alone = Criterion(config, box_loss="iou")(outputs(), BATCH)
    doubled = Criterion(config, box_loss="iou", mean_over_processes=lambda value: 2 * value)(outputs(), BATCH)
    torch.testing.assert_close(2 * doubled.total, alone.total)


@pytest.mark.parametrize("pixels", [320, 333])
def test_losses_and_gradients_are_torchvisions(pixels: int) -> None:
    """With its conventions; at 333 pixels its steps aren't the strides."""
    script = PROJECT / "benchmarks" / "criterion.py"
    ours, theirs = runpy.run_path(str(script))["sides"](images=2, objects=6, pixels=pixels, classes=91)
    (losses, gradients), (expected, expected_gradients) = ours(), theirs()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=0)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
