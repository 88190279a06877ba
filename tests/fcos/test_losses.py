import math
from collections.abc import Callable

import pytest
import torch
import torchvision.ops
from torch import Tensor

from fcos.losses import BOX_LOSSES, centerness, entropy, giou_loss, iou_loss, sigmoid_focal_loss


def random_boxes(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * 20
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator, dtype=dtype) * 20], dim=-1)


def test_focal_loss_is_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 7, generator=generator, dtype=torch.float64) * 5
    goal = (torch.rand(50, 7, generator=generator) < 0.3).double()
    for alpha, gamma in ((0.25, 2.0), (0.6, 1.0)):
        expected = torchvision.ops.sigmoid_focal_loss(logits, goal, alpha=alpha, gamma=gamma)
        torch.testing.assert_close(sigmoid_focal_loss(logits, goal, alpha=alpha, gamma=gamma), expected)


def test_focal_loss_by_hand() -> None:
    """Logit 0, so p = ½: α·(½)²·ln 2 for the class itself, (1 − α)·(½)²·ln 2 for another."""
    found = sigmoid_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
    assert found.tolist() == pytest.approx([0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)])


def test_focal_loss_stays_finite_at_extreme_logits() -> None:
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_giou_is_torchvisions() -> None:
    a, b = random_boxes(200, 1), random_boxes(200, 2)
    torch.testing.assert_close(giou_loss(a, b), torchvision.ops.generalized_box_iou_loss(a, b), atol=1e-6, rtol=1e-6)


def test_iou_is_the_logarithm_of_torchvisions() -> None:
    a, b = random_boxes(200, 1), random_boxes(200, 2)
    touching = torchvision.ops.box_iou(a, b).diagonal() > 1e-6
    expected = -torchvision.ops.box_iou(a, b).diagonal().log()
    torch.testing.assert_close(iou_loss(a, b)[touching], expected[touching])


@pytest.mark.parametrize("name", list(BOX_LOSSES))
class TestBoxLosses:
    def test_equal_boxes_lose_nothing(self, name: str) -> None:
        boxes = random_boxes(10, 3)
        assert BOX_LOSSES[name](boxes, boxes).tolist() == pytest.approx([0] * 10, abs=1e-12)

    def test_gradients(self, name: str) -> None:
        a, b = random_boxes(6, 4), random_boxes(6, 4) + 0.7
        assert torch.autograd.gradcheck(BOX_LOSSES[name], (a.requires_grad_(), b))

    def test_degenerate_and_far_boxes_stay_finite(self, name: str) -> None:
        loss: Callable[[Tensor, Tensor], Tensor] = BOX_LOSSES[name]
        predicted = torch.tensor([[0.0] * 4, [5.0, 5.0, 5.0, 5.0], [1e6, 1e6, 2e6, 2e6]], requires_grad=True)
        values = loss(predicted, torch.tensor([[0.0, 0.0, 4.0, 4.0]] * 3))
        values.sum().backward()
        assert values.isfinite().all()
        assert predicted.grad is not None
        assert predicted.grad.isfinite().all()

    def test_no_boxes(self, name: str) -> None:
        assert BOX_LOSSES[name](torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_centerness_by_hand() -> None:
    ltrb = torch.tensor([[5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 4.0, 8.0], [2.0, 6.0, 8.0, 6.0]])
    assert centerness(ltrb).tolist() == pytest.approx([1.0, 0.25, 0.5])


def test_entropy_is_the_least_cross_entropy() -> None:
    probability = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    logits = torch.logit(probability.clamp(1e-15, 1 - 1e-15))
    least = torch.nn.functional.binary_cross_entropy_with_logits(logits, probability, reduction="none")
    torch.testing.assert_close(entropy(probability), least, atol=1e-12, rtol=0)
