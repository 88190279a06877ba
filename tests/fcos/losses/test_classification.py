"""Classification losses: elementwise values compared with references, and sums compared with elementwise values."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
import torchvision.ops
from torch import Tensor

import fcos.losses.classification
from fcos.config import ModelConfig
from fcos.losses import CLASSIFICATION_LOSSES
from fcos.losses.classification import quality_focal_loss, sigmoid_focal_loss, varifocal_loss

NAMES = list(CLASSIFICATION_LOSSES)


def random_input(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [*shape], labels and targets [*shape[:-1]], a third of them background."""
    generator = torch.Generator().manual_seed(math.prod(shape))
    logits = torch.randn(*shape, generator=generator, dtype=dtype) * scale
    labels = torch.randint(shape[-1], shape[:-1], generator=generator)
    targets = torch.rand(*shape[:-1], generator=generator, dtype=torch.promote_types(dtype, torch.float32))
    return logits, labels, targets * (torch.rand(*shape[:-1], generator=generator) < 0.67)


def plain_sum(name: str, logits: Tensor, labels: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    dense_targets = torch.zeros_like(logits).scatter(-1, labels[..., None], targets.to(logits.dtype)[..., None])
    return CLASSIFICATION_LOSSES[name].elementwise(logits, dense_targets, alpha=alpha, gamma=gamma).sum()


def test_the_configuration_accepts_all_names_of_the_registry() -> None:
    assert set(get_args(get_type_hints(ModelConfig)["classification_loss"])) == set(NAMES)


def test_focal_loss_equals_torchvisions() -> None:
    logits, _, random_targets = random_input(50, 7, dtype=torch.float64)
    targets = (random_targets > 0.5).double()[:, None].expand(-1, 7)
    for alpha, gamma in ((0.25, 2.0), (0.6, 1.0)):
        expected = torchvision.ops.sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
        torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma), expected)


def test_focal_loss_by_hand() -> None:
    """Logit 0, so p = ½: α·(½)²·ln 2 for target 1, (1 − α)·(½)²·ln 2 for target 0."""
    losses = sigmoid_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), alpha=0.25, gamma=2.0)
    assert losses.tolist() == pytest.approx([0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)])


def test_quality_focal_loss_by_hand() -> None:
    """p = ½: |½ − y|²·ln 2 for any y; p = ¾ and y = ¼: (½)²·(−¼·ln ¾ − ¾·ln ¼)."""
    logits = torch.tensor([0.0, 0.0, 0.0, math.log(3)])
    losses = quality_focal_loss(logits, torch.tensor([0.0, 1.0, 0.25, 0.25]), alpha=0.9, gamma=2.0)
    last = -0.25 * (0.25 * math.log(0.75) + 0.75 * math.log(0.25))
    assert losses.tolist() == pytest.approx([math.log(2) / 4, math.log(2) / 4, math.log(2) / 16, last])


def test_varifocal_loss_by_hand() -> None:
    """p = ¾: q·BCE for q > 0; α·(¾)²·(−ln ¼) for q = 0."""
    losses = varifocal_loss(torch.full((2,), math.log(3)), torch.tensor([0.25, 0.0]), alpha=0.75, gamma=2.0)
    positive = -0.25 * (0.25 * math.log(0.75) + 0.75 * math.log(0.25))
    assert losses.tolist() == pytest.approx([positive, 0.75 * 0.5625 * math.log(4)])


@pytest.mark.parametrize("name", NAMES)
class TestSum:
    @pytest.mark.parametrize("shape", [(2, 40, 7), (3, 11, 1), (1, 1, 3), (0, 5, 4), (2, 0, 4)])
    @pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.75, 1.5), (1.0, 0.0), (0.0, 0.5)])
    def test_value_and_gradient_equal_those_of_the_elementwise_loss(
        self, name: str, shape: tuple[int, ...], alpha: float, gamma: float
    ) -> None:
        logits, labels, targets = random_input(*shape, dtype=torch.float64)
        logits.requires_grad_()
        targets = targets if CLASSIFICATION_LOSSES[name].soft else targets.ceil()
        expected = plain_sum(name, logits, labels, targets, alpha, gamma)
        (expected_gradient,) = torch.autograd.grad(expected, logits)
        loss = CLASSIFICATION_LOSSES[name].summed(logits, labels, targets, alpha=alpha, gamma=gamma)
        (gradient,) = torch.autograd.grad(3 * loss, logits)
        torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(gradient, 3 * expected_gradient, rtol=1e-6, atol=1e-8)

    def test_the_size_of_chunks_changes_only_rounding(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        logits, labels, targets = random_input(2, 40, 7)
        loss = CLASSIFICATION_LOSSES[name]
        expected = loss.summed(logits, labels, targets, alpha=0.25, gamma=2.0)
        monkeypatch.setattr(fcos.losses.classification, "_CHUNK_PER_THREAD", 13)
        torch.testing.assert_close(loss.summed(logits, labels, targets, alpha=0.25, gamma=2.0), expected)
        logits.requires_grad_()
        torch.testing.assert_close(loss.summed(logits, labels, targets, alpha=0.25, gamma=2.0), expected)

    def test_gradients_of_the_elementwise_loss(self, name: str) -> None:
        logits, _, targets = random_input(9, 3, dtype=torch.float64)

        def loss(logits: Tensor) -> Tensor:
            return CLASSIFICATION_LOSSES[name].elementwise(
                logits, targets[:, None].expand(-1, 3), alpha=0.25, gamma=2.0
            )

        assert torch.autograd.gradcheck(loss, (logits.requires_grad_(),))

    @pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
    def test_extreme_logits_stay_finite(self, name: str, gamma: float) -> None:
        logits = torch.tensor([[-200.0], [200.0], [-200.0], [200.0], [0.0]], requires_grad=True)
        targets = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5])
        loss = CLASSIFICATION_LOSSES[name].summed(
            logits, torch.zeros(5, dtype=torch.int64), targets, alpha=0.25, gamma=gamma
        )
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_summed_in_float32(self, name: str, dtype: torch.dtype) -> None:
        logits, labels, targets = random_input(2, 40, 7, dtype=dtype)
        wide = logits.float().requires_grad_()
        logits.requires_grad_()
        with torch.autocast("cpu"):
            loss = CLASSIFICATION_LOSSES[name].summed(logits, labels, targets, alpha=0.25, gamma=2.0)
            expected = CLASSIFICATION_LOSSES[name].summed(wide, labels, targets, alpha=0.25, gamma=2.0)
        assert loss.dtype == torch.float32
        assert loss == expected
        # As with a gradient scaler: 65536 exceeds the largest number of float16.
        (gradient,) = torch.autograd.grad(loss * 65536, logits)
        (expected_gradient,) = torch.autograd.grad(expected * 65536, wide)
        assert gradient.dtype == dtype
        assert torch.equal(gradient, expected_gradient.to(dtype))

    def test_second_derivatives_and_second_backward_passes_are_errors(self, name: str) -> None:
        logits, labels, targets = random_input(2, 4, 3)
        logits.requires_grad_()
        loss = CLASSIFICATION_LOSSES[name].summed(logits, labels, targets, alpha=0.25, gamma=2.0)
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(loss, logits, create_graph=True)
        torch.autograd.grad(loss, logits, retain_graph=True)
        with pytest.raises(RuntimeError, match="one backward"):
            torch.autograd.grad(loss, logits)
