"""The criterion: compared with loops over locations and with torchvision's losses, for all configurations."""

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
from fcos.losses import BOX_LOSSES, CLASSIFICATION_LOSSES, centerness, distribution_focal_loss
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
NO_OBJECTS = make_targets([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
PARTS = ("classification", "box", "quality", "quality_floor")


def random_outputs(seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    count = len(PYRAMID.xy)
    return Outputs(
        logits=torch.randn(2, count, 3, generator=generator).requires_grad_(),
        ltrb=(torch.rand(2, count, 4, generator=generator) * 30).requires_grad_(),
        quality=torch.randn(2, count, generator=generator).requires_grad_(),
        locations=PYRAMID,
    )


def leaves(outputs: Outputs) -> list[Tensor]:
    return [tensor for tensor in (outputs.logits, outputs.ltrb, outputs.quality) if tensor is not None]


def test_against_a_loop_over_locations() -> None:
    """The paper's equation 2."""
    outputs = random_outputs()
    assignment = ASSIGNERS["fcos"](outputs, BATCH, CONFIG)
    classification = box = center = weights = torch.zeros(())
    count = int(assignment.positive.sum())
    assert outputs.quality is not None
    for i in range(2):
        for p, location in enumerate(PYRAMID.xy):
            target = torch.zeros(3)
            if assignment.positive[i, p]:
                target[assignment.labels[i, p]] = 1
                central = centerness(assignment.ltrb[i, p])
                pair = (boxes_from_ltrb(location, ltrb) for ltrb in (outputs.ltrb[i, p], assignment.ltrb[i, p]))
                box = box + central * iou_loss(*pair)
                weights = weights + central
                center = center + F.binary_cross_entropy_with_logits(outputs.quality[i, p], central)
            loss = sigmoid_focal_loss(outputs.logits[i, p], target, alpha=0.25, gamma=2.0)
            classification = classification + loss.sum()
    losses = Criterion(CONFIG, box_loss="iou")(outputs, BATCH)
    assert count > 4
    torch.testing.assert_close(losses.classification, classification / count)
    torch.testing.assert_close(losses.box, box / weights)
    torch.testing.assert_close(losses.quality, center / count)
    torch.testing.assert_close(losses.total, (classification + center) / count + box / weights)
    assert losses.positives == count


def test_soft_targets_and_iou_quality_against_a_loop_over_locations() -> None:
    """Quality focal loss, a box loss weighted by IoU, and an IoU branch with l1 use the predicted box's IoU."""
    config = replace(
        CONFIG, classification_loss="quality_focal", box_loss_weighting="iou", quality="iou", quality_loss="l1"
    )
    outputs = random_outputs()
    assignment = ASSIGNERS["fcos"](outputs, BATCH, config)
    classification = box = quality = weights = torch.zeros(())
    count = int(assignment.positive.sum())
    assert outputs.quality is not None
    for i in range(2):
        for p, (location, stride) in enumerate(zip(PYRAMID.xy, PYRAMID.strides, strict=True)):
            target = torch.zeros(3)
            if assignment.positive[i, p]:
                pair = [boxes_from_ltrb(location, ltrb) for ltrb in (outputs.ltrb[i, p], assignment.ltrb[i, p])]
                iou = aligned_iou(*pair)[0].detach()
                target[assignment.labels[i, p]] = iou
                box = box + iou * l1_loss(pair[0] / stride, pair[1] / stride)
                weights = weights + iou
                quality = quality + (outputs.quality[i, p].sigmoid() - iou).abs()
            loss = quality_focal_loss(outputs.logits[i, p], target, alpha=0.25, gamma=2.0)
            classification = classification + loss.sum()
    losses = Criterion(config, box_loss="l1")(outputs, BATCH)
    expected = {"classification": classification / count, "box": box / weights, "quality": quality / count}
    for name, value in expected.items():
        torch.testing.assert_close(getattr(losses, name), value)
    assert losses.quality_floor == 0
    for gradient, expected_gradient in zip(
        torch.autograd.grad(losses.total, leaves(outputs)),
        torch.autograd.grad(sum(expected.values(), torch.zeros(())), leaves(outputs)),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected_gradient)


def test_alignment_is_the_soft_target_of_a_task_aligned_assignment() -> None:
    config = replace(CONFIG, classification_loss="quality_focal", assigner="task_aligned")
    outputs = random_outputs()
    assignment = ASSIGNERS["task_aligned"](outputs, BATCH, config)
    assert assignment.alignment is not None
    targets = torch.zeros_like(outputs.logits).scatter(
        -1, assignment.labels[..., None], assignment.alignment[..., None]
    )
    expected = quality_focal_loss(outputs.logits, targets, alpha=0.25, gamma=2.0).sum() / assignment.positive.sum()
    torch.testing.assert_close(Criterion(config, box_loss="giou")(outputs, BATCH).classification, expected)


def test_unweighted_box_loss_is_the_mean_over_positives() -> None:
    outputs = random_outputs()
    assignment = ASSIGNERS["fcos"](outputs, BATCH, CONFIG)
    pair = [boxes_from_ltrb(PYRAMID.xy, ltrb)[assignment.positive] for ltrb in (outputs.ltrb, assignment.ltrb)]
    losses = Criterion(replace(CONFIG, box_loss_weighting="none"), box_loss="giou")(outputs, BATCH)
    torch.testing.assert_close(losses.box, giou_loss(*pair).mean())


def test_without_a_quality_branch_its_loss_is_zero() -> None:
    outputs = random_outputs()
    without_quality = replace(outputs, quality=None)
    losses = Criterion(replace(CONFIG, quality="none"), box_loss="iou")(without_quality, BATCH)
    assert losses.quality == losses.quality_floor == 0
    torch.testing.assert_close(losses.total, losses.classification + losses.box)
    losses.total.backward()  # type: ignore[no-untyped-call]


def test_weights_multiply_each_part() -> None:
    weights = LossWeights(classification=2.0, box=3.0, quality=5.0)
    unweighted = Criterion(CONFIG, box_loss="iou")(random_outputs(), BATCH)
    weighted = Criterion(replace(CONFIG, loss_weights=weights), box_loss="iou")(random_outputs(), BATCH)
    for name, factor in zip(PARTS, (2, 3, 5, 5), strict=True):
        torch.testing.assert_close(getattr(weighted, name), factor * getattr(unweighted, name))
    expected = 2 * unweighted.classification + 3 * unweighted.box + 5 * unweighted.quality
    torch.testing.assert_close(weighted.total, expected)
    assert set(unweighted.named()) == {"total", *PARTS, "positives"}


def test_the_quality_floor_is_the_minimum_of_the_centerness_loss() -> None:
    assignment = ASSIGNERS["fcos"](random_outputs(), BATCH, CONFIG)
    perfect = replace(random_outputs(), quality=torch.logit(centerness(assignment.ltrb), eps=1e-6))
    losses = Criterion(CONFIG, box_loss="iou")(perfect, BATCH)
    torch.testing.assert_close(losses.quality, losses.quality_floor, rtol=1e-4, atol=1e-4)
    assert Criterion(CONFIG, box_loss="iou")(random_outputs(), BATCH).quality > losses.quality_floor


@pytest.mark.parametrize("box_loss", list(BOX_LOSSES))
@pytest.mark.parametrize("box_loss_weighting", ["centerness", "iou", "none"])
def test_a_batch_without_objects_has_only_a_classification_loss(box_loss: str, box_loss_weighting: str) -> None:
    outputs = random_outputs()
    config = replace(CONFIG, box_loss_weighting=box_loss_weighting)  # type: ignore[arg-type]
    losses = Criterion(config, box_loss=box_loss)(outputs, NO_OBJECTS)
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert losses.classification > 0
    assert losses.box == 0
    assert losses.quality == 0
    for tensor in leaves(outputs):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("box_loss", list(BOX_LOSSES))
def test_degenerate_boxes_give_finite_losses(box_loss: str) -> None:
    """Infinite boxes at background locations, empty boxes at positive locations."""
    outputs = random_outputs()
    assignment = ASSIGNERS["fcos"](outputs, BATCH, CONFIG)
    ltrb = torch.where(assignment.positive[..., None], 0.0, torch.inf).expand(-1, -1, 4).clone().requires_grad_()
    config = replace(CONFIG, classification_loss="varifocal", box_loss_weighting="iou", quality="iou")
    losses = Criterion(config, box_loss=box_loss)(Outputs(outputs.logits, ltrb, outputs.quality, PYRAMID), BATCH)
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert all(value.isfinite() for value in losses.named().values())
    for tensor in (outputs.logits, ltrb, outputs.quality):
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
def test_losses_of_half_precision_are_float32_and_do_not_synchronize(config: ModelConfig) -> None:
    """In every combination, forward and backward."""
    outputs = random_outputs()
    half = Outputs(outputs.logits.bfloat16(), outputs.ltrb, leaves(outputs)[2].bfloat16(), PYRAMID)
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
    assert outputs.ltrb.grad is not None
    assert outputs.ltrb.grad.isfinite().all()


def test_the_box_loss_does_not_depend_on_the_position() -> None:
    """It is computed from distances, so that large coordinates lose no precision."""
    near = make_locations([(1, 1)], [8])
    far = replace(near, xy=near.xy + 2**20, grids=(replace(near.grids[0], first=near.grids[0].first + 2**20),))
    ltrb = torch.tensor([[[1.25, 1.5, 1.0, 1.75]]])
    losses = []
    for pyramid in (near, far):
        box = boxes_from_ltrb(pyramid.xy, torch.tensor([[2.0, 2.0, 2.0, 2.0]]))
        outputs = Outputs(torch.zeros(1, 1, 1), ltrb, torch.zeros(1, 1), pyramid)
        losses.append(Criterion(CONFIG, box_loss="giou")(outputs, make_targets([box], [torch.tensor([0])])).box)
    assert losses[0] > 0
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("box_loss_weighting", ["centerness", "iou", "none"])
def test_normalizers_are_means_over_processes(box_loss_weighting: str) -> None:
    """If the mean is twice as large, the loss is half as large."""
    config = replace(CONFIG, box_loss_weighting=box_loss_weighting)  # type: ignore[arg-type]
    single = Criterion(config, box_loss="iou")(random_outputs(), BATCH)
    doubled = Criterion(config, box_loss="iou", mean_over_processes=lambda value: 2 * value)(random_outputs(), BATCH)
    torch.testing.assert_close(2 * doubled.total, single.total)


@pytest.mark.parametrize("weighting", ["centerness", "none"])
def test_the_distribution_focal_loss_is_added_to_the_box_loss(weighting: str) -> None:
    """Its mean over the positive locations, weighted as the box loss, times its factor."""
    factors = replace(CONFIG.loss_weights, box=3.0, distribution=0.5)
    config = replace(CONFIG, box_output="distribution", box_loss_weighting=weighting, loss_weights=factors)  # type: ignore[arg-type]
    outputs = random_outputs()
    logits = torch.randn(2, len(PYRAMID.xy), 4, 17, generator=torch.Generator().manual_seed(1)).requires_grad_()
    without = Criterion(config, box_loss="giou")(outputs, BATCH)
    with NoSynchronization():
        losses = Criterion(config, box_loss="giou")(replace(outputs, distributions=logits), BATCH)
    assignment = ASSIGNERS["fcos"](outputs, BATCH, config)
    total, weights = torch.zeros(()), torch.zeros(())
    for i, p in assignment.positive.nonzero().tolist():
        weight = centerness(assignment.ltrb[i, p]) if weighting == "centerness" else torch.ones(())
        strides = assignment.ltrb[i, p] / PYRAMID.strides[p]
        total, weights = total + weight * distribution_focal_loss(logits[i, p], strides), weights + weight
    torch.testing.assert_close(losses.box - without.box, 0.5 * total / weights)
    for name in ("classification", "quality", "positives"):
        assert losses.named()[name] == without.named()[name]
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.equal(logits.grad.flatten(2).any(dim=-1), assignment.positive)


@pytest.mark.parametrize("pixels", [320, 333])
def test_losses_and_gradients_equal_torchvisions(pixels: int) -> None:
    """With torchvision's conventions; for 333 pixels, the distances of its locations differ from the strides."""
    script = PROJECT / "benchmarks" / "criterion.py"
    ours, theirs = runpy.run_path(str(script))["sides"](images=2, objects=6, pixels=pixels, classes=91)
    (losses, gradients), (expected, expected_gradients) = ours(), theirs()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=0)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)
