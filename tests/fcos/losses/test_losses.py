"""Box losses, quality losses and centerness."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor

from fcos.config import BoxLoss, ModelConfig
from fcos.losses import BOX_LOSSES, QUALITY_LOSSES, centerness
from fcos.losses.box import (
    ciou_loss,
    diou_loss,
    eiou_loss,
    giou_loss,
    iou_loss,
    l1_loss,
    linear_iou_loss,
    smooth_l1_loss,
)
from fcos.losses.quality import entropy


def random_boxes(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * 20
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator, dtype=dtype) * 20], dim=-1)


def test_the_configuration_accepts_all_names_of_the_registries() -> None:
    assert set(get_args(BoxLoss)) == set(BOX_LOSSES)
    assert set(get_args(get_type_hints(ModelConfig)["quality_loss"])) == set(QUALITY_LOSSES)


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (giou_loss, torchvision.ops.generalized_box_iou_loss),
        (diou_loss, torchvision.ops.distance_box_iou_loss),
        (ciou_loss, torchvision.ops.complete_box_iou_loss),
    ],
)
def test_losses_and_gradients_equal_torchvisions(ours, reference) -> None:  # type: ignore[no-untyped-def]
    a, b = random_boxes(200, 1).requires_grad_(), random_boxes(200, 2)
    torch.testing.assert_close(ours(a, b), reference(a, b), atol=1e-6, rtol=1e-6)
    (gradient,), (expected,) = (torch.autograd.grad(loss(a, b).sum(), a) for loss in (ours, reference))
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def test_iou_losses_with_torchvisions_iou() -> None:
    a, b = random_boxes(200, 1), random_boxes(200, 2)
    iou = torchvision.ops.box_iou(a, b).diagonal()
    touching = iou > 1e-6
    torch.testing.assert_close(iou_loss(a, b)[touching], -iou.log()[touching])
    torch.testing.assert_close(linear_iou_loss(a, b), 1 - iou)


def test_eiou_loss_by_hand() -> None:
    """Boxes of 4 × 2 and 2 × 4 with IoU 4/12, centers 1 apart in x and y, a hull of 4 × 4; boxes that don't touch."""
    predicted = torch.tensor([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    target = torch.tensor([[2.0, 0.0, 4.0, 4.0], [2.0, 0.0, 4.0, 1.0]], dtype=torch.float64)
    expected = [1 - 1 / 3 + 2 / 32 + (2 / 4) ** 2 + (2 / 4) ** 2, 1 + 2.5**2 / 17 + (1 / 4) ** 2]
    assert eiou_loss(predicted, target).tolist() == pytest.approx(expected)


def test_l1_losses_by_hand() -> None:
    """Differences of ½, 1, 2 and 0 strides: mean 3.5/4; smooth: (⅛ + ½ + 1½ + 0)/4."""
    a, b = torch.tensor([-1.5, -2.0, 3.0, 4.0]), torch.tensor([-1.0, -1.0, 5.0, 4.0])
    assert l1_loss(a, b).item() == 0.875
    assert smooth_l1_loss(a, b).item() == (0.125 + 0.5 + 1.5) / 4


@pytest.mark.parametrize("name", list(BOX_LOSSES))
class TestBoxLosses:
    def test_the_loss_of_equal_boxes_is_zero(self, name: str) -> None:
        boxes = random_boxes(10, 3)
        assert BOX_LOSSES[name](boxes, boxes).tolist() == pytest.approx([0] * 10, abs=1e-12)

    def test_gradients(self, name: str) -> None:
        if name == "ciou":  # its α is not differentiated; another test compares the gradient with torchvision's
            return
        a, b = random_boxes(6, 4), random_boxes(6, 4) + 0.7
        assert torch.autograd.gradcheck(BOX_LOSSES[name], (a.requires_grad_(), b))

    def test_degenerate_and_far_boxes_stay_finite(self, name: str) -> None:
        boxes = [[0.0] * 4, [5.0] * 4, [1e6, 1e6, 2e6, 2e6], [0.0, 2.0, 4.0, 2.0], [-1e9, -1e9, 1e9, 1e9], [1.0] * 4]
        predicted = torch.tensor(boxes, requires_grad=True)
        values = BOX_LOSSES[name](predicted, torch.tensor([[0.0, 0.0, 4.0, 4.0]] * 6))
        values.sum().backward()
        assert values.isfinite().all()
        assert (values > 0).all()
        assert predicted.grad is not None
        assert predicted.grad.isfinite().all()

    def test_no_boxes(self, name: str) -> None:
        assert BOX_LOSSES[name](torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_centerness_by_hand() -> None:
    ltrb = torch.tensor([[5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 4.0, 8.0], [2.0, 6.0, 8.0, 6.0]])
    assert centerness(ltrb).tolist() == pytest.approx([1.0, 0.25, 0.5])


def test_quality_losses_by_hand() -> None:
    """p = ¾, target ¼: −¼·ln ¾ − ¾·ln ¼, and ½."""
    logit, target = torch.tensor(math.log(3)), torch.tensor(0.25)
    expected = -0.25 * math.log(0.75) - 0.75 * math.log(0.25)
    assert QUALITY_LOSSES["bce"].loss(logit, target).item() == pytest.approx(expected)
    assert QUALITY_LOSSES["l1"].loss(logit, target).item() == pytest.approx(0.5)


def test_entropy_is_the_minimum_of_cross_entropy() -> None:
    probability = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    logits = torch.logit(probability.clamp(1e-15, 1 - 1e-15))
    minimum = F.binary_cross_entropy_with_logits(logits, probability, reduction="none")
    torch.testing.assert_close(entropy(probability), minimum, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", list(QUALITY_LOSSES))
def test_the_floor_is_the_minimum_of_a_quality_loss(name: str) -> None:
    targets = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    loss = QUALITY_LOSSES[name]
    torch.testing.assert_close(loss.loss(targets.logit(), targets), loss.floor(targets))
    assert (loss.loss(targets.logit() + 0.3, targets) > loss.floor(targets)).all()
